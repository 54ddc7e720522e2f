"""What is submitted for token ids, held against what vLLM's own path makes of them."""

import asyncio
from typing import Any

import pytest

from service.domain import (
    DeliveryOptions,
    GenerationRequest,
    Priority,
    SamplingOptions,
    TextPrompt,
    TokensPrompt,
)
from service.engine.byte_level import ByteLevelDecoder
from service.errors import InvalidRequest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

SAMPLINGS = [
    SamplingOptions(),
    SamplingOptions(max_tokens=5, min_tokens=2, temperature=0.0),
    SamplingOptions(
        temperature=0.7,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        seed=3,
        stop=("x",),
        stop_token_ids=(7, 8),
        ignore_eos=True,
        skip_special_tokens=False,
        include_stop=True,
    ),
]


async def vllms_own(processor: Any, prompt: Any, params: Any) -> Any:
    """The request that vLLM's render_cmpl_async and process_inputs make."""
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    parsed = parse_model_prompt(processor.model_config, prompt)
    (engine_input,) = await processor.renderer.render_cmpl_async([parsed])
    request = processor.process_inputs(
        request_id="id", prompt=engine_input, params=params, supported_tasks=("generate",)
    )
    request.external_req_id = "id"
    return request


def fields_of(request: Any) -> dict[str, Any]:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    del fields["arrival_time"]
    return fields


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("prompt", [[5], [1, 2, 3, 300], list(range(2, 200))], ids=len)
def test_token_ids_are_submitted_as_vllms_own_path_would_field_for_field(
    parts: tuple[Any, Any], prompt: list[int], sampling: SamplingOptions
) -> None:
    async def both() -> tuple[Any, Any]:
        renderer, processor = parts
        ours = await renderer.render("id", GenerationRequest(TokensPrompt(prompt), "", sampling))
        params = renderer.sampling_params(sampling)
        theirs = await vllms_own(processor, {"prompt_token_ids": prompt}, params)
        return ours, theirs

    ours, theirs = asyncio.run(both())
    assert fields_of(ours.handle) == fields_of(theirs)
    assert ours.prompt_token_count == len(prompt)
    assert abs(ours.handle.arrival_time - theirs.arrival_time) < 60


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (GenerationRequest(TokensPrompt([5])), None),
        (GenerationRequest(TokensPrompt([5]), tenant="t"), {"tenant": "t"}),
        (GenerationRequest(TokensPrompt([5]), deadline=12.5), {"deadline": 12.5}),
        (GenerationRequest(TokensPrompt([5]), priority=Priority.LOW), {"priority": -1}),
        (
            GenerationRequest(TokensPrompt([5]), delivery=DeliveryOptions(reading_rate=4.8)),
            {"reading_rate": 4.8},
        ),
    ],
)
def test_the_scheduler_is_told_what_the_caller_said_and_nothing_where_there_is_nothing(
    parts: tuple[Any, Any], request_: GenerationRequest, said: dict[str, Any] | None
) -> None:
    rendered = asyncio.run(parts[0].render("id", request_))
    wanted = None if said is None else {"tokenstream": said}
    assert rendered.handle.sampling_params.extra_args == wanted


def test_a_text_is_the_tokens_that_it_is_tokenized_to(parts: tuple[Any, Any]) -> None:
    async def both() -> tuple[Any, Any]:
        renderer, processor = parts
        params = SamplingOptions(max_tokens=5)
        text = await renderer.render("id", GenerationRequest(TextPrompt("once upon"), "", params))
        ids = processor.renderer.tokenizer.encode("once upon")
        return text, await renderer.render("id", GenerationRequest(TokensPrompt(ids), "", params))

    text, tokens = asyncio.run(both())
    assert text.handle.prompt_token_ids == tokens.handle.prompt_token_ids
    assert text.prompt_token_count == tokens.prompt_token_count


def test_each_decoder_of_a_request_begins_anew(parts: tuple[Any, Any]) -> None:
    rendered = asyncio.run(parts[0].render("id", GenerationRequest(TextPrompt("once upon"))))
    ids = parts[1].renderer.tokenizer.encode(" a time \u20ac", add_special_tokens=False)
    first, second = rendered.make_decoder(), rendered.make_decoder()
    assert isinstance(first, ByteLevelDecoder)
    assert first.decode(ids) == second.decode(ids) == " a time \u20ac"


def test_behind_half_a_character_the_text_is_vllms_own(parts: tuple[Any, Any]) -> None:
    euro = parts[1].renderer.tokenizer.encode("\u20ac", add_special_tokens=False)
    assert len(euro) > 1, "the demo model has no token for it"
    rendered = asyncio.run(parts[0].render("id", GenerationRequest(TokensPrompt(euro[:1]))))
    decoder = rendered.make_decoder()
    assert not isinstance(decoder, ByteLevelDecoder)
    assert decoder.decode(euro[1:]) == "\u20ac"


def test_what_only_vllm_can_see_is_refused_by_field(parts: tuple[Any, Any]) -> None:
    long = GenerationRequest(TextPrompt("a b " * 100_000))
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(parts[0].render("id", long))
    assert [violation.field for violation in refused.value.violations] == ["text"]
