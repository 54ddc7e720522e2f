"""What each server is asked, and how its answers are read and checked against the known tokens."""

from importlib import import_module

from bench.dialects.dialect import Dialect

# Modules, not classes: those of ours and of vLLM's gRPC server have their messages installed in
# different environments.
_PLACES = {
    "session": ("session", "Session"),
    "generate": ("generate", "Generate"),
    "vllm-grpc": ("vllm_grpc", "VllmGrpc"),
    "bridge": ("sse", "Bridge"),
    "openai": ("sse", "OpenAi"),
    "floor": ("floor", "Floor"),
}
DIALECTS = tuple(_PLACES)


def dialect(name: str) -> Dialect:
    """Return the dialect of that name, one of `DIALECTS`."""
    module, of = _PLACES[name]
    made: Dialect = getattr(import_module(f"{__name__}.{module}"), of)()
    return made
