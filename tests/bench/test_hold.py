import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from bench.dialects import generate, session
from bench.dialects.answers import token_text
from bench.dialects.dialect import Workload
from bench.hold import GenerateHold, Hold, SessionHold
from tokenstream.v1 import generation_pb2 as pb

_WORK = Workload(streams=40, tokens=100, prompt_tokens=8)
_PROMPTS = [_WORK.known.prompt(n, 8) for n in range(_WORK.streams)]


def _session(requests: Iterator[pb.SessionRequest], context: Any) -> Iterator[pb.SessionResponse]:
    """Deliver as many tokens as are granted, at once."""
    answers: dict[int, list[int]] = {}
    had: dict[int, int] = {}
    for request in requests:
        if request.WhichOneof("action") == "start":
            number, asked = request.start.id, request.start.request
            answers[number] = _WORK.known.answer(asked.token_ids.ids, _WORK.tokens)
            had[number] = 0
            limits = {number: asked.stream.credit}
            yield pb.SessionResponse(started=[pb.SessionStarted(id=number)])
        else:
            limits = dict(zip(request.credit.ids, request.credit.token_limits, strict=True))
        parts = {n: answers[n][had[n] : limit] for n, limit in limits.items() if limit > had[n]}
        deltas = pb.SessionDeltas(
            ids=parts.keys(),
            first_token_indexes=[had[n] for n in parts],
            token_counts=[len(tokens) for tokens in parts.values()],
            token_ids=[token for tokens in parts.values() for token in tokens],
            texts=["".join(map(token_text, tokens)) for tokens in parts.values()],
        )
        for n, tokens in parts.items():
            had[n] += len(tokens)
        yield pb.SessionResponse(deltas=deltas)


def _generate(request: pb.GenerateRequest, context: Any) -> Iterator[pb.GenerateResponse]:
    """Deliver one token and wait for the reader to go away."""
    token = _WORK.known.answer(request.token_ids.ids, 1)[0]
    yield pb.GenerateResponse(started=pb.Started())
    yield pb.GenerateResponse(delta=pb.Delta(token_ids=[token], text=token_text(token)))
    gone = threading.Event()
    if context.add_callback(gone.set):
        gone.wait()


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(_WORK.streams + 1))
    _, service, session_method = session.PATH.split("/")
    handlers: Any = {
        session_method: grpc.stream_stream_rpc_method_handler(
            _session, pb.SessionRequest.FromString, pb.SessionResponse.SerializeToString
        ),
        generate.PATH.rpartition("/")[2]: grpc.unary_stream_rpc_method_handler(
            _generate, pb.GenerateRequest.FromString, pb.GenerateResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def _read(hold: Hold, until: Callable[[], bool]) -> None:
    hold.connection.socket.settimeout(0.05)
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline
        try:
            hold.connection.receive(hold.connection.socket.recv(65536), time.monotonic())
        except TimeoutError:
            continue


def test_without_credit_every_stream_starts_and_brings_nothing(address: str) -> None:
    hold = SessionHold(address, _PROMPTS, _WORK, credit=0, paced=False)
    hold.begin()
    _read(hold, lambda: hold.started() == _WORK.streams)
    hold.tick()
    held = hold.held()
    hold.connection.close()
    assert (held.tokens, held.wrong) == (0, ())


def test_paced_readers_get_what_they_have_granted(address: str) -> None:
    hold = SessionHold(address, _PROMPTS, _WORK, credit=1, paced=True)
    hold.begin()
    _read(hold, lambda: hold.started() == _WORK.streams)
    for _ in range(30):  # one and a half rounds: half of the readers have granted twice
        hold.tick()
    _read(hold, lambda: hold.held().tokens == _WORK.streams * 2 + _WORK.streams // 2)
    hold.connection.close()
    assert hold.held().wrong == ()


def test_a_stream_that_ends_while_it_is_held_is_told(address: str) -> None:
    hold = SessionHold(address, _PROMPTS, _WORK, credit=0, paced=False)
    hold.begin()
    _read(hold, lambda: hold.started() == _WORK.streams)
    hold.streams()[3].finish(0)
    hold.connection.close()
    assert hold.held().wrong == ("stream 3: finished",)


def test_tokens_past_the_credit_are_told(address: str) -> None:
    hold = SessionHold(address, _PROMPTS[:1], _WORK, credit=1, paced=False)
    hold.begin()
    _read(hold, lambda: hold.held().tokens == 1)
    hold.connection.close()
    answer = _WORK.known.answer(_PROMPTS[0], 2)
    hold.streams()[0].go_on(0.0, 1, answer[1:], token_text(answer[1]))
    assert hold.held().wrong == ("stream 0: more tokens than were granted",)


def test_calls_are_held_with_what_came_so_far(address: str) -> None:
    hold = GenerateHold(address, _PROMPTS, _WORK)
    hold.begin()
    _read(hold, lambda: hold.started() == _WORK.streams)
    _read(hold, lambda: hold.held().tokens == _WORK.streams)
    assert hold.held().wrong == ()
    hold.connection.close()
