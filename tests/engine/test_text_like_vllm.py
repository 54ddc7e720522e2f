"""Our text and our stop-string search, held against vLLM's own on anything."""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.engine.byte_level import ByteLevelDecoder, ByteLevelVocabulary
from service.stream.stop_strings import StopWatch
from service.stream.text import StopRules, TextCursor, TokenDecoder
from tests.engine.byte_tokenizers import UNUSED_IDS, awkward, of_the_demo_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

ALPHABET = "abc é🙂"

all_rules = st.builds(
    StopRules,
    st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4, unique=True).map(tuple),
    st.integers(0, 10),
    st.booleans(),
)
all_sizes = st.lists(st.integers(1, 5), min_size=30, max_size=30)


class PiecesDecoder:
    """Token ids are places in a list of texts."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join([self._pieces[i] for i in token_ids])

    def decode_token(self, token_id: int) -> str:
        return self._pieces[token_id]


def core_request(
    rules: StopRules, prompt: list[int] | None = None, *, skip_special: bool = True
) -> Any:
    """A request as vLLM's detokenizer wants it."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    return EngineCoreRequest(
        request_id="",
        prompt_token_ids=prompt or [0],
        mm_features=None,
        sampling_params=SamplingParams(
            stop=list(rules.strings),
            min_tokens=rules.min_tokens,
            include_stop_str_in_output=rules.include_stop,
            skip_special_tokens=skip_special,
            max_tokens=1000,
        ),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def vllms_answer(detokenizer: Any, token_ids: Sequence[int]) -> tuple[str, int, str | None]:
    """Text, tokens and stop string by vLLM's own detokenizer, one token a step."""
    for number, token_id in enumerate(token_ids, 1):
        stop = detokenizer.update([token_id], stop_terminated=False)
        if stop is not None:
            return cast(str, detokenizer.output_text), number, stop
    return cast(str, detokenizer.output_text), len(token_ids), None


def our_answer(
    decoders: tuple[TokenDecoder, TokenDecoder],
    token_ids: Sequence[int],
    rules: StopRules,
    sizes: Sequence[int],
) -> tuple[str, int, str | None]:
    """The same by ours: found by the first decoder, read with the second in such messages."""
    watch = StopWatch(decoders[0], rules)
    match, kept = None, list(token_ids)
    for number, token_id in enumerate(token_ids, 1):
        match = watch.feed([token_id])
        if match is not None:
            del kept[number:]
            break
    count = len(kept)
    cursor, text = TextCursor(decoders[1], rules), ""
    for size in sizes:
        if len(kept) > size:
            text += cursor.take(kept[:size])
            del kept[:size]
    upto = None if match is None else match.characters
    text += cursor.take_last(kept, last_is_stop=False, upto=upto)
    return text, count, None if match is None else match.string


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.text(ALPHABET, max_size=4), max_size=30), rules=all_rules, sizes=all_sizes
)
def test_any_tokens_with_any_stop_strings_end_where_vllm_ends_them(
    pieces: list[str], rules: StopRules, sizes: list[int]
) -> None:
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

    class Pieces(BaseIncrementalDetokenizer):  # type: ignore[misc]  # vLLM is not followed
        def decode_next(self, next_token_id: int) -> str:
            return pieces[next_token_id]

    ids = range(len(pieces))
    ours = our_answer((PiecesDecoder(pieces), PiecesDecoder(pieces)), ids, rules, sizes)
    assert ours == vllms_answer(Pieces(core_request(rules)), ids)


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer as vLLM has it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    written = awkward() if name == "awkward" else of_the_demo_model()
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(written))


@cache
def vocabulary_of(name: str) -> ByteLevelVocabulary:
    vocabulary = ByteLevelVocabulary.of(
        tokenizer_of(name)._tokenizer.to_str(), len(tokenizer_of(name)) + UNUSED_IDS
    )
    assert vocabulary is not None
    return vocabulary


@pytest.mark.parametrize("name", ["awkward", "demo"])
@settings(max_examples=300, deadline=None)
@given(data=st.data(), rules=all_rules, skip_special=st.booleans(), sizes=all_sizes)
def test_any_tokens_have_the_text_of_vllms_own_detokenizer(
    name: str, data: st.DataObject, rules: StopRules, skip_special: bool, sizes: list[int]
) -> None:
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer, IncrementalDetokenizer

    vocabulary = vocabulary_of(name)
    size = len(vocabulary.texts)
    ids = st.integers(0, size - 1) | st.integers(size - 40, size - 1)
    prompt = data.draw(st.lists(ids, min_size=1, max_size=5))
    token_ids = data.draw(st.lists(ids, max_size=30))
    assume(vocabulary.starts_clean(prompt, skip_special=skip_special))

    request = core_request(rules, prompt, skip_special=skip_special)
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer_of(name), request)
    assert isinstance(detokenizer, FastIncrementalDetokenizer)
    decoders = (
        ByteLevelDecoder(vocabulary, skip_special=skip_special),
        ByteLevelDecoder(vocabulary, skip_special=skip_special),
    )
    assert our_answer(decoders, token_ids, rules, sizes) == vllms_answer(detokenizer, token_ids)
