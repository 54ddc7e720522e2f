import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway_sse.openai.logprobs import TextOffsets, chat_logprobs, completion_logprobs
from tokenstream_client import LikelyToken, TokenLogprobs


def test_an_impossible_token_has_a_number_that_json_can_say() -> None:
    entry = TokenLogprobs(-math.inf, b"a", (LikelyToken(1, -math.inf, b"b"),))
    chat = chat_logprobs([entry])["content"][0]
    assert chat["logprob"] == chat["top_logprobs"][0]["logprob"] == -9999.0
    completion = completion_logprobs([entry], TextOffsets())
    assert completion["token_logprobs"] == [-9999.0]
    assert completion["top_logprobs"] == [{"b": -9999.0, "a": -9999.0}]


def test_halves_of_characters_are_told_apart_and_begin_where_the_character_does() -> None:
    tokens = [b"a", b"\xe2\x82", b"\xac", b"b"]
    body = completion_logprobs([TokenLogprobs(-1.0, token, ()) for token in tokens], TextOffsets())
    assert body["tokens"] == ["a", "bytes:\\xe2\\x82", "bytes:\\xac", "b"]
    assert body["text_offset"] == [0, 1, 1, 2]
    assert body["top_logprobs"][0] == {"a": -1.0}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_offsets_are_those_of_the_text_however_its_bytes_are_cut(
    text: str, data: st.DataObject
) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)))) | {0, len(encoded)})
    offsets = TextOffsets()
    for start, end in pairwise(cuts):
        whole_before = len(encoded[:start].decode(errors="ignore"))
        assert offsets.next(encoded[start:end]) == whole_before
