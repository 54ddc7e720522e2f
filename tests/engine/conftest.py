"""What the tests of rendering share: vLLM's own parts, without an engine."""

from collections.abc import Iterator
from typing import Any

import pytest

import demo_model
from service.engine.vllm_args import engine_arguments, prepare_environment


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[Any, Any]]:
    """A renderer of ours and the input processor of vLLM's under it; no engine is started."""
    prepare_environment("error")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.renderers import renderer_from_config
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.input_processor import InputProcessor

    from service.engine.vllm_rendering import VllmRenderer

    arguments = engine_arguments("demo", {}, demo_model.path())
    config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    processor = InputProcessor(config, renderer_from_config(config))
    renderer = VllmRenderer(processor, config.model_config.get_diff_sampling_param())
    yield renderer, processor
    renderer.close()
