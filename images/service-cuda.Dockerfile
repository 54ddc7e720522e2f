# syntax=docker/dockerfile:1
# The service with vLLM's CUDA build; the driver is the node's, all else comes with the packages.
#   docker build --file images/service-cuda.Dockerfile --build-arg PYTHON_DIGEST=sha256:… --tag tokenstream-service:0.1.0-cuda .
# PYTHON_DIGEST has no usable default on purpose: docs/deploy.md, "Images", tells how to look it up.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG PYTHON_DIGEST=sha256:0000000000000000000000000000000000000000000000000000000000000000

FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/image-build.lock requirements/
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-deps --require-hashes --only-binary :all: \
      --requirement requirements/image-build.lock
# Without pip: nothing gets into it but what the lock files name.
RUN python -m venv --without-pip /opt/tokenstream
COPY requirements/image-service-cuda.lock requirements/
RUN python -m pip --python /opt/tokenstream/bin/python install --no-deps --require-hashes \
      --only-binary :all: --requirement requirements/image-service-cuda.lock
COPY pyproject.toml README.md LICENSE ./
COPY gen gen
COPY clients/python/tokenstream_client clients/python/tokenstream_client
COPY demo_model demo_model
COPY gateway_sse gateway_sse
COPY service service
COPY tokenstream_cli tokenstream_cli
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /dist \
 && python -m pip --python /opt/tokenstream/bin/python install --no-deps --no-index /dist/*.whl

FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST}
# Triton compiles kernels when it starts.
# Debian keeps one version of each at a time; the base's digest says which Debian.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev libnuma1 \
 && rm -rf /var/lib/apt/lists/*
RUN python -m pip uninstall --yes pip setuptools wheel \
 && groupadd --gid 10001 tokenstream \
 && useradd --uid 10001 --gid tokenstream --no-create-home --home-dir /cache \
      --shell /usr/sbin/nologin tokenstream \
 && install --directory --owner=10001 --group=10001 /cache
COPY --from=build /opt/tokenstream /opt/tokenstream
ENV PATH=/opt/tokenstream/bin:$PATH \
    HOME=/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Which GPUs is the device plugin's to say, or `docker run --gpus`.
# What compiles with nvcc and g++, which are not in here: FlashInfer's sampler (at the profiling
# run, so no start would succeed) and DeepGEMM. vLLM has others in their place.
ENV VLLM_USE_FLASHINFER_SAMPLER=0 \
    VLLM_USE_DEEP_GEMM=0
USER 10001:10001
EXPOSE 50051 9101
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m CMD ["tokenstream", "health", "serve"]
ENTRYPOINT ["tokenstream"]
CMD ["serve"]
