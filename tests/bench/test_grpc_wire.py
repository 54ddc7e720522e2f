import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from itertools import pairwise
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.grpc_wire import GrpcWire, SessionWire, messages
from bench.http2 import request_headers
from bench.wire import LoadFailed


@given(st.lists(st.binary(max_size=20)), st.data())
def test_messages_come_out_whole_however_the_bytes_are_cut(
    sent: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(b"\0" + len(m).to_bytes(4, "big") + m for m in sent)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=10).map(sorted))
    edges = [0, *cuts, len(wire)]
    pieces = [(float(i), wire[a:b]) for i, (a, b) in enumerate(pairwise(edges))]
    found = messages(pieces)
    assert [message for _, message in found] == sent
    assert [at for at, _ in found] == sorted(at for at, _ in found)


def test_a_path_too_long_for_one_length_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="length byte"):
        request_headers("/" + "x" * 200, "localhost")


@pytest.fixture
def address() -> Iterator[str]:
    """The official library's server.

    Stream answers with every beginning of the request, Echo with each request as it comes.
    """

    def answer(request: bytes, context: Any) -> Iterator[bytes]:
        if request == b"fail":
            context.abort(grpc.StatusCode.INTERNAL, "no")
        for i in range(len(request)):
            yield request[: i + 1]

    def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from requests

    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers: Any = {
        "Stream": grpc.unary_stream_rpc_method_handler(answer),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("connections", [1, 3, 8])
def test_calls_to_a_real_server_bring_their_own_messages(address: str, connections: int) -> None:
    wire = GrpcWire(address, "/test.Echo/Stream", connections)
    wire.connect()
    for _ in range(2):  # the connections are kept
        requests = [str(n).encode() * 3 for n in range(6)]
        records = wire.run(requests, time.monotonic() + 10)
        for request, record in zip(requests, records, strict=True):
            assert [m for _, m in messages(record.pieces)] == [request[: i + 1] for i in range(3)]
            assert record.sent_at <= record.pieces[0][0]
    wire.close()


@pytest.mark.parametrize("connections", [1, 3, 8])
def test_calls_that_carry_many_requests_end_when_all_were_answered(
    address: str, connections: int
) -> None:
    wire = SessionWire(address, "/test.Echo/Echo", connections)
    wire.connect()
    for _ in range(2):
        requests = [str(n).encode() for n in range(6)]
        records = wire.run(requests, time.monotonic() + 10)
        calls = min(connections, 6)
        for number, record in enumerate(records):
            assert record.pieces is records[number % calls].pieces
            mine = requests[number % calls :: calls]
            assert [message for _, message in messages(record.pieces)] == mine
    wire.close()


def test_more_than_the_servers_windows_hold_is_sent_as_they_open(address: str) -> None:
    wire = SessionWire(address, "/test.Echo/Echo", 1)
    wire.connect()
    requests = [bytes([n]) * 50_000 for n in range(20)]
    (record, *_) = wire.run(requests, time.monotonic() + 20)
    assert [message for _, message in messages(record.pieces)] == requests
    wire.close()


def test_a_call_that_fails_ends_without_messages(address: str) -> None:
    wire = GrpcWire(address, "/test.Echo/Stream", 1)
    wire.connect()
    (failed, fine) = wire.run([b"fail", b"ok"], time.monotonic() + 10)
    assert messages(failed.pieces) == []
    assert len(messages(fine.pieces)) == 2
    wire.close()


def test_a_connection_that_breaks_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(10_000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        wire = GrpcWire(f"127.0.0.1:{listener.getsockname()[1]}", "/a/b", 1)
        wire.connect()
        with pytest.raises((LoadFailed, ConnectionError)):
            wire.run([b"x"], time.monotonic() + 10)
        thread.join()
        wire.close()
