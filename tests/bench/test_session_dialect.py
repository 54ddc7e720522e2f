import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from bench.dialects.answers import token_text
from bench.dialects.dialect import Brought, Workload
from bench.dialects.session import PATH, Session
from bench.known_tokens import KnownTokens
from bench.wire import LoadFailed, Record
from tokenstream.v1 import generation_pb2 as pb

_KNOWN = KnownTokens()
_ANSWERS = [_KNOWN.answer([300 + i], 4) for i in range(2)]


def _text(tokens: list[int]) -> str:
    return "".join(token_text(token) for token in tokens)


def _deltas(*parts: tuple[int, int, list[int]]) -> pb.SessionDeltas:
    """Columns of (id, index of the first token, tokens)."""
    return pb.SessionDeltas(
        ids=[i for i, _, _ in parts],
        first_token_indexes=[first for _, first, _ in parts],
        token_counts=[len(tokens) for _, _, tokens in parts],
        token_ids=[token for _, _, tokens in parts for token in tokens],
        texts=[_text(tokens) for _, _, tokens in parts],
    )


def _finished(number: int, tokens: int) -> pb.SessionFinished:
    usage = pb.Usage(completion_tokens=tokens)
    return pb.SessionFinished(id=number, finished=pb.Finished(usage=usage))


def _whole() -> list[pb.SessionResponse]:
    """Two requests: the second has one more message than the first."""
    one, two = _ANSWERS
    return [
        pb.SessionResponse(started=[pb.SessionStarted(id=1), pb.SessionStarted(id=2)]),
        pb.SessionResponse(deltas=_deltas((1, 0, one[:2]), (2, 0, two[:1]))),
        pb.SessionResponse(deltas=_deltas((2, 1, two[1:2]), (1, 2, one[2:]))),
        pb.SessionResponse(deltas=_deltas((2, 2, two[2:])), finished=[_finished(1, 4)]),
        pb.SessionResponse(finished=[_finished(2, 4)]),
    ]


def _read(responses: list[pb.SessionResponse]) -> Brought:
    raw = [r.SerializeToString() for r in responses]
    pieces = [(float(at), b"\0" + len(r).to_bytes(4, "big") + r) for at, r in enumerate(raw)]
    return Session().read([Record(0.0, pieces), Record(0.0, pieces)], _ANSWERS)


def test_requests_that_share_messages_have_each_the_times_of_their_own_part() -> None:
    brought = _read(_whole())
    assert [reading.wrong for reading in brought.readings] == [None, None]
    assert [list(reading.times) for reading in brought.readings] == [[1, 2], [1, 2, 3]]
    assert brought.frames == 3


def _spoil_token(responses: list[pb.SessionResponse]) -> None:
    responses[1].deltas.token_ids[2] = 9


def _spoil_text(responses: list[pb.SessionResponse]) -> None:
    responses[3].deltas.texts[0] = ""


def _repeat(responses: list[pb.SessionResponse]) -> None:
    responses.insert(3, responses[2])


def _lose(responses: list[pb.SessionResponse]) -> None:
    del responses[2]


def _never_start(responses: list[pb.SessionResponse]) -> None:
    del responses[0].started[1]


def _start_twice(responses: list[pb.SessionResponse]) -> None:
    responses[1].started.append(pb.SessionStarted(id=2))


def _never_finish(responses: list[pb.SessionResponse]) -> None:
    del responses[4]


def _finish_twice(responses: list[pb.SessionResponse]) -> None:
    responses.append(responses[4])


def _finish_early(responses: list[pb.SessionResponse]) -> None:
    responses.insert(3, responses.pop())


def _fail(responses: list[pb.SessionResponse]) -> None:
    failure = pb.Failure(code=13, message="it broke")
    responses[4] = pb.SessionResponse(failed=[pb.SessionFailed(id=2, failure=failure)])


def _reject(responses: list[pb.SessionResponse]) -> None:
    failure = pb.Failure(code=3, message="no such thing")
    responses[4] = pb.SessionResponse(rejected=[pb.SessionRejected(id=2, failure=failure)])


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (_spoil_token, "token 0 is 9"),
        (_spoil_text, "the text differs"),
        (_repeat, "a gap at token 2"),
        (_lose, "a gap at token 1"),
        (_never_start, "a delta before its start"),
        (_start_twice, "started twice"),
        (_never_finish, "no finished event"),
        (_finish_twice, "finished twice"),
        (_finish_early, "a usage of 4 tokens after 2"),
        (_fail, "failed: it broke"),
        (_reject, "rejected: no such thing"),
    ],
)
def test_a_spoilt_request_is_found_out(
    spoil: Callable[[list[pb.SessionResponse]], None], wrong: str
) -> None:
    responses = _whole()
    spoil(responses)
    told = _read(responses).readings[1].wrong
    assert told is not None
    assert wrong in told


def _short_column(deltas: pb.SessionDeltas) -> None:
    del deltas.texts[0]


def _wrong_count(deltas: pb.SessionDeltas) -> None:
    deltas.token_counts[0] += 1


def _same_id(deltas: pb.SessionDeltas) -> None:
    deltas.ids[1] = deltas.ids[0]


@pytest.mark.parametrize(
    ("spoil", "told"), [(_short_column, "length"), (_wrong_count, "count"), (_same_id, "twice")]
)
def test_columns_that_do_not_fit_together_are_refused(
    spoil: Callable[[pb.SessionDeltas], None], told: str
) -> None:
    responses = _whole()
    spoil(responses[1].deltas)
    with pytest.raises(LoadFailed, match=told):
        _read(responses)


def test_an_event_of_a_request_that_nobody_made_is_refused() -> None:
    with pytest.raises(LoadFailed, match="request 7"):
        _read([pb.SessionResponse(started=[pb.SessionStarted(id=7)])])


async def _answer(
    requests: AsyncIterator[pb.SessionRequest], context: object
) -> AsyncIterator[pb.SessionResponse]:
    """Answer each request with its known tokens, one token of every request a message."""
    answers: dict[int, list[int]] = {}
    async for message in requests:
        for request in message.batch.requests:
            asked = request.start.request
            known = _KNOWN.answer(asked.token_ids.ids, asked.sampling.max_tokens)
            answers[request.start.id] = known
            yield pb.SessionResponse(started=[pb.SessionStarted(id=request.start.id)])
    for at in range(max(map(len, answers.values()))):
        parts = [(i, at, [answer[at]]) for i, answer in answers.items()]
        yield pb.SessionResponse(deltas=_deltas(*parts))
    yield pb.SessionResponse(finished=[_finished(i, len(a)) for i, a in answers.items()])


@pytest.mark.parametrize("connections", [1, 3])
async def test_a_load_on_a_real_server_brings_every_token(connections: int) -> None:
    server = grpc.aio.server()
    _, service, method = PATH.split("/")
    handler: Any = grpc.stream_stream_rpc_method_handler(
        _answer, pb.SessionRequest.FromString, pb.SessionResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {method: handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    work = Workload(streams=40, tokens=30, prompt_tokens=32, connections=connections)
    prompts = [work.known.prompt(n, work.prompt_tokens) for n in range(work.streams)]
    session = Session()

    def load() -> list[Record]:
        wire = session.wire(f"127.0.0.1:{port}", work)
        wire.connect()
        try:
            requests = session.requests(work, prompts, [""] * work.streams)
            return wire.run(requests, time.monotonic() + 20)
        finally:
            wire.close()

    records = await asyncio.to_thread(load)
    await server.stop(None)
    brought = session.read(records, [work.known.answer(p, work.tokens) for p in prompts])
    assert {reading.wrong for reading in brought.readings} == {None}
    assert {len(reading.times) for reading in brought.readings} == {30}
    assert brought.frames == 30 * connections
