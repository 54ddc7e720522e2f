"""The table of texts, held against the tokenizers library, which vLLM decodes with."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from service.engine.byte_level import ByteLevelDecoder, ByteLevelVocabulary
from tests.engine.byte_tokenizers import ADDED, UNUSED_IDS, awkward, of_the_demo_model


class Tried:
    """A tokenizer, by the library and by us."""

    def __init__(self, tokenizer_json: str) -> None:
        self.library = Tokenizer.from_str(tokenizer_json)
        self.size = self.library.get_vocab_size(with_added_tokens=True) + UNUSED_IDS
        vocabulary = ByteLevelVocabulary.of(tokenizer_json, self.size)
        assert vocabulary is not None
        self.vocabulary = vocabulary

    def id_of(self, token: str) -> int:
        token_id = self.library.token_to_id(token)
        assert isinstance(token_id, int)
        return token_id

    def as_the_library(
        self, prompt: list[int], token_ids: list[int], *, skip_special: bool
    ) -> list[str]:
        """The text that the library gives out at each token."""
        stream = DecodeStream(ids=prompt, skip_special_tokens=skip_special)
        return [stream.step(self.library, token_id) or "" for token_id in token_ids]

    def as_we(self, messages: list[list[int]], *, skip_special: bool) -> list[str]:
        """The text that ours gives out for each message."""
        decoder = ByteLevelDecoder(self.vocabulary, skip_special=skip_special)
        return [decoder.decode(message) for message in messages]


TRIED = {"awkward": Tried(awkward()), "demo": Tried(of_the_demo_model())}
EACH = pytest.mark.parametrize("name", TRIED)


def token_ids_of(tried: Tried) -> st.SearchStrategy[list[int]]:
    awkward_ids = [
        i for i in range(tried.size) if not tried.vocabulary.texts[i] or i >= tried.size - 40
    ]
    ids = st.integers(0, tried.size - 1)
    ids |= st.sampled_from(awkward_ids) | st.sampled_from(sorted(tried.vocabulary.special))
    return st.lists(ids, min_size=1, max_size=25)


def cut(token_ids: list[int], sizes: list[int]) -> list[list[int]]:
    messages, left = [], list(token_ids)
    for size in sizes:
        messages.append(left[:size])
        del left[:size]
    return [*messages, left]


@EACH
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_tokens_in_any_cut_have_the_librarys_text_at_each_token(
    name: str, data: st.DataObject
) -> None:
    tried = TRIED[name]
    token_ids = data.draw(token_ids_of(tried))
    skip_special = data.draw(st.booleans())
    prompt = data.draw(token_ids_of(tried))
    assume(tried.vocabulary.starts_clean(prompt, skip_special=skip_special))
    expected = tried.as_the_library(prompt, token_ids, skip_special=skip_special)
    one_by_one = tried.as_we([[i] for i in token_ids], skip_special=skip_special)
    assert one_by_one == expected

    sizes = data.draw(st.lists(st.integers(0, 6), max_size=8))
    messages = cut(token_ids, sizes)
    assert tried.as_we(messages, skip_special=skip_special) == [
        "".join(texts) for texts in cut_like(expected, messages)
    ]
    decoder = ByteLevelDecoder(tried.vocabulary, skip_special=skip_special)
    assert [decoder.decode_token(i) for i in token_ids] == expected


def cut_like(texts: list[str], messages: list[list[int]]) -> list[list[str]]:
    left = iter(texts)
    return [[next(left) for _ in message] for message in messages]


@EACH
@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_that_is_tokenized_comes_back(name: str, text: str) -> None:
    tried = TRIED[name]
    token_ids = tried.library.encode(text, add_special_tokens=False).ids
    assume(tried.library.decode(token_ids, skip_special_tokens=False) == text)
    assume(not text.endswith("\ufffd"))
    assert "".join(tried.as_we([token_ids], skip_special=False)) == text


@EACH
def test_every_token_by_itself_has_the_librarys_text(name: str) -> None:
    tried = TRIED[name]
    prompt = [
        next(i for i in range(tried.size) if tried.vocabulary.starts_clean([i], skip_special=False))
    ]
    for skip_special in (False, True):
        for token_id in range(tried.size):
            expected = tried.as_the_library(prompt, [token_id], skip_special=skip_special)
            assert tried.as_we([[token_id]], skip_special=skip_special) == expected


@EACH
def test_a_prompt_that_ends_inside_a_character_or_in_nothing_does_not_start_clean(
    name: str,
) -> None:
    tried, vocabulary = TRIED[name], TRIED[name].vocabulary
    assert not vocabulary.starts_clean([], skip_special=True)
    for token_id in range(tried.size):
        text = tried.library.decode([token_id], skip_special_tokens=False)
        clean = bool(text) and not text.endswith("\ufffd")
        if clean and vocabulary.texts[token_id] is None:
            continue  # such as bytes that are no UTF-8 in front of a letter
        assert vocabulary.starts_clean([token_id], skip_special=False) is clean
        assert vocabulary.starts_clean([token_id, token_id], skip_special=False) is clean


def test_a_prompt_that_ends_inside_a_character_and_then_a_special_token_is_none_of_ours() -> None:
    tried = TRIED["awkward"]
    prompt, token_ids = [tried.id_of("\u00e2"), tried.id_of("<|end|>")], [tried.id_of("!")]
    expected = tried.as_the_library(prompt, token_ids, skip_special=True)
    assert expected == ["\ufffd!"], "vLLM shows what the prompt left"
    assert not tried.vocabulary.starts_clean(prompt, skip_special=True)


def test_a_special_token_between_the_bytes_of_a_character_does_not_let_them_go() -> None:
    tried = TRIED["awkward"]
    end = tried.id_of("<|end|>")
    euro = [tried.id_of(c) for c in ("\u00e2", "\u0124", "\u00ac")]
    spelt = [euro[0], end, euro[1], end, euro[2]]
    assert tried.as_we([[i] for i in spelt], skip_special=True) == ["", "", "", "", "\u20ac"]


def test_added_tokens_are_there_as_they_are_written() -> None:
    tried = TRIED["awkward"]
    for content, special in ADDED:
        if "\u00e9" in content or "\ufffd" in content:
            continue  # what bytes are written with, and what stands for no character
        token_id = tried.id_of(content)
        assert tried.as_we([[token_id]], skip_special=False) == [content]
        assert tried.as_we([[token_id]], skip_special=True) == ["" if special else content]


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": None},
        {"decoder": {"type": "Metaspace"}},
        {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}},
        {"model": None},
    ],
)
def test_a_tokenizer_that_decodes_otherwise_is_left_to_vllm(change: dict[str, object]) -> None:
    other = json.dumps(json.loads(awkward()) | change)
    assert ByteLevelVocabulary.of(other, 1000) is None


def test_every_id_that_the_model_can_sample_is_in_the_table() -> None:
    vocabulary = ByteLevelVocabulary.of(awkward(), 5000)
    assert vocabulary is not None
    assert ByteLevelDecoder(vocabulary, skip_special=True).decode([4999]) == ""
    small = ByteLevelVocabulary.of(awkward(), 1)
    assert small is not None
    assert len(small.texts) == TRIED["awkward"].size - UNUSED_IDS


def test_a_long_answer_of_held_back_text_is_held_in_pieces_and_comes_out_whole() -> None:
    tried = TRIED["awkward"]
    replacement = [tried.id_of(c) for c in "ï¿½"]  # U+FFFD, byte by byte
    decoder = ByteLevelDecoder(tried.vocabulary, skip_special=True)
    assert decoder.decode(replacement * 10_000) == ""
    assert decoder.decode_token(tried.id_of("!")) == "\ufffd" * 10_000 + "!"
