"""Several choices of one request, as vLLM makes them (`vllm.v1.engine.parallel_sampling`).

vLLM's engine process knows no choices: whoever submits makes a request of each.
"""

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from service.engine.protocol import RenderedRequest

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


def choice_of(rendered: RenderedRequest, engine_id: str, index: int) -> RenderedRequest:
    """See `EngineClient.choice`. The prompt's tokens are shared: both are only read."""
    request: EngineCoreRequest = copy(rendered.handle)
    request.request_id = request.external_req_id = engine_id
    params = request.sampling_params
    if params is not None and params.seed is not None:
        # Without a seed they share the engine's own random numbers, which differ at each draw.
        request.sampling_params = copy(params)
        request.sampling_params.seed = params.seed + index
    return replace(rendered, handle=request)
