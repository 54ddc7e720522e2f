import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.http_wire import HttpWire, events
from bench.wire import LoadFailed

_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunked(*chunks: bytes) -> bytes:
    return b"".join(f"{len(c):x}\r\n".encode() + c + b"\r\n" for c in (*chunks, b""))


@given(st.data())
def test_events_come_out_whole_however_the_bytes_are_cut(data: st.DataObject) -> None:
    wire = _HEAD + _chunked(
        b"event: started\ndata: {}\n\ndata: on", b"e\n\n: ping\n\n", b"id: 7\r\ndata: two\r\n\r\n"
    )
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=10).map(sorted))
    edges = [0, *cuts, len(wire)]
    pieces = [(float(i), wire[a:b]) for i, (a, b) in enumerate(pairwise(edges))]
    assert [event for _, event in events(pieces)] == [b"{}", b"one", b"two"]


@pytest.fixture
def answers() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers its first connection with these bytes, sent one by one."""
    parts: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.001)  # so that they arrive one by one
                connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", parts
        thread.join()


def test_an_answer_ends_with_its_last_chunk_even_when_that_comes_in_pieces(
    answers: tuple[str, list[bytes]],
) -> None:
    address, parts = answers
    whole = _HEAD + _chunked(b"data: x\n\n")
    parts.extend([whole[:-4], whole[-4:-3], whole[-3:]])
    (record,) = HttpWire(address, "/").run([b"{}"], time.monotonic() + 10)
    assert b"".join(piece for _, piece in record.pieces) == whole


def test_a_refusal_is_told_with_its_words(answers: tuple[str, list[bytes]]) -> None:
    address, parts = answers
    parts.append(b"HTTP/1.1 400 Bad Request\r\n\r\nno such model")
    wire = HttpWire(address, "/")
    with pytest.raises(LoadFailed, match="no such model"):
        wire.run([b"{}"], time.monotonic() + 10)
    wire.close()
