import json

import pytest

from bench.dialects import DIALECTS, dialect
from bench.dialects.answers import token_text
from bench.dialects.dialect import CallEach, Workload
from bench.dialects.generate import Generate
from bench.dialects.sse import Bridge, OpenAi
from bench.known_tokens import KnownTokens
from bench.wire import Record
from tokenstream.v1 import generation_pb2 as pb

_ANSWER = KnownTokens().answer([300, 301], 6)
_TEXTS = [token_text(token) for token in _ANSWER]


def _grpc(*messages: pb.GenerateResponse) -> Record:
    raw = [m.SerializeToString() for m in messages]
    return Record(
        0.0, [(float(i), b"\0" + len(r).to_bytes(4, "big") + r) for i, r in enumerate(raw)]
    )


def _delta(first: int, tokens: list[int], text: str) -> pb.GenerateResponse:
    return pb.GenerateResponse(delta=pb.Delta(first_token_index=first, token_ids=tokens, text=text))


_STARTED = pb.GenerateResponse(started=pb.Started(stream_id="s"))
_FINISHED = pb.GenerateResponse(finished=pb.Finished(usage=pb.Usage(completion_tokens=6)))


def _whole() -> list[pb.GenerateResponse]:
    deltas = [_delta(i, _ANSWER[i : i + 2], "".join(_TEXTS[i : i + 2])) for i in range(0, 6, 2)]
    return [_STARTED, *deltas, _FINISHED]


def test_a_whole_stream_is_right_and_has_the_times_of_its_deltas() -> None:
    reading = Generate().read_one(_grpc(*_whole()), _ANSWER)
    assert reading.wrong is None
    assert list(reading.times) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("spoilt", "wrong"),
    [
        (lambda m: [m[0], m[2], m[3], m[4]], "a gap at token 0"),
        (lambda m: [*m[:2], m[1], *m[2:]], "a gap at token 2"),
        (lambda m: [*m[:3], m[4]], "a usage of 6 tokens after 4"),
        (lambda m: m[:3], "4 tokens of 6"),
        (lambda m: m[1:], "a delta before its start"),
        (lambda m: m[:-1], "no finished event"),
        (lambda m: [*m, m[-1]], "finished twice"),
        (lambda m: [m[0], _delta(0, [*_ANSWER[:3], 9, *_ANSWER[4:]], ""), m[4]], "token 3 is 9"),
        (lambda m: [m[0], _delta(0, _ANSWER, "".join(_TEXTS)[1:]), m[4]], "the text differs"),
    ],
)
def test_a_spoilt_stream_is_found_out(spoilt: object, wrong: str) -> None:
    assert callable(spoilt)
    reading = Generate().read_one(_grpc(*spoilt(_whole())), _ANSWER)
    assert reading.wrong is not None
    assert wrong in reading.wrong


def _sse(*data: str) -> Record:
    body = "".join(f"data: {d}\n\n" for d in data).encode()
    chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    return Record(0.0, [(1.0, b"HTTP/1.1 200 OK\r\n\r\n" + chunks)])


def _openai_event(text: str) -> str:
    return json.dumps({"choices": [{"text": text}]})


@pytest.mark.parametrize(
    ("dialect", "event"),
    [(Bridge(), lambda text: json.dumps({"token": text})), (OpenAi(), _openai_event)],
)
def test_text_events_are_held_against_the_tokens_texts(dialect: CallEach, event: object) -> None:
    assert callable(event)
    events = [event(text) for text in _TEXTS]
    reading = dialect.read_one(_sse(*events, "[DONE]"), _ANSWER)
    assert (reading.wrong, len(reading.times)) == (None, 6)
    assert dialect.read_one(_sse(*events), _ANSWER).wrong == "no [DONE]"
    assert "differs" in str(dialect.read_one(_sse(*events[:-1], "[DONE]"), _ANSWER).wrong)


def test_requests_ask_for_exactly_so_many_tokens() -> None:
    work = Workload(streams=1, tokens=7, prompt_tokens=2, max_delay_ms=50)
    request = pb.GenerateRequest.FromString(Generate().request(work, [300, 301], "name"))
    assert list(request.token_ids.ids) == [300, 301]
    assert (request.sampling.max_tokens, request.sampling.ignore_eos) == (7, True)
    assert request.stream.max_delay_ms == 50
    assert json.loads(OpenAi().request(work, [300], "name"))["max_tokens"] == 7
    assert json.loads(Bridge().request(work, [300], "name"))["max_delay_ms"] == 50


@pytest.mark.parametrize("kind", [Generate(), Bridge()])
def test_without_a_delay_the_server_decides(kind: CallEach) -> None:
    raw = kind.request(Workload(streams=1, tokens=7, prompt_tokens=2), [300], "name")
    assert b"max_delay_ms" not in raw
    if isinstance(kind, Generate):
        assert not pb.GenerateRequest.FromString(raw).stream.HasField("max_delay_ms")


def test_no_delay_is_a_value() -> None:
    work = Workload(streams=1, tokens=7, prompt_tokens=2, max_delay_ms=0)
    request = pb.GenerateRequest.FromString(Generate().request(work, [300], "name"))
    assert request.stream.HasField("max_delay_ms")
    assert json.loads(Bridge().request(work, [300], "name"))["max_delay_ms"] == 0


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_found_by_its_name(name: str) -> None:
    assert callable(dialect(name).read)
