"""The requests that choices are submitted as, held against vLLM's own children of a request."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from service.domain import GenerationRequest, TextPrompt
from service.engine.scripted import ScriptedEngine
from service.engine.vllm_choices import choice_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]


def fields_of(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


@pytest.mark.parametrize("seed", [None, 0, 7])
async def test_a_choice_has_the_parameters_of_vllms_own_child(seed: int | None) -> None:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.parallel_sampling import ParentRequest

    params = SamplingParams(seed=seed, temperature=0.5, max_tokens=9, extra_args={"a": 1})
    request = EngineCoreRequest("id", [1, 2, 3], None, params, None, 1.5, None, None, None)
    request.external_req_id = "id"
    before = deepcopy(fields_of(request))
    anyones = await ScriptedEngine().render("id", GenerationRequest(TextPrompt("abc")))
    rendered = replace(anyones, handle=request)

    of_several = deepcopy(request)
    assert of_several.sampling_params is not None
    of_several.sampling_params.n = 3
    parent = ParentRequest(of_several)
    for index in (1, 2):
        _, vllms = parent.get_child_info(index)
        choice = choice_of(rendered, f"id~{index}", index)
        assert choice.handle.sampling_params == vllms
        ours = fields_of(choice.handle)
        assert ours["request_id"] == ours["external_req_id"] == f"id~{index}"
        same = ("request_id", "external_req_id", "sampling_params")
        assert all(ours[name] == before[name] for name in before if name not in same)
        assert choice.make_decoder is rendered.make_decoder
    assert fields_of(request) == before
