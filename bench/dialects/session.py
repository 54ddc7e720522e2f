"""Our `GenerationService.Session`: many requests on one call."""

from collections.abc import Iterator

from bench import grpc_wire
from bench.dialects.dialect import Brought, Workload
from bench.dialects.generate import generate_request
from bench.dialects.stream import Stream
from bench.wire import LoadFailed, Record, Wire
from tokenstream.v1 import generation_pb2 as pb

_BURST = 64
PATH = "/tokenstream.v1.GenerationService/Session"


class Streams(dict[int, Stream]):
    """The requests of a load by their ids."""

    def __missing__(self, number: int) -> Stream:
        raise LoadFailed(f"an event of request {number}, which nobody has made")


class Session:
    """A `Dialect`. The request at place i of a load has the id i + 1.

    A burst of requests goes in batches, as the client library sends it.
    """

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        return grpc_wire.SessionWire(address, PATH, work.connections, batch, _BURST)

    def requests(self, work: Workload, prompts: list[list[int]], names: list[str]) -> list[bytes]:
        """See `Dialect`."""
        return [start(i, generate_request(work, prompt)) for i, prompt in enumerate(prompts, 1)]

    def read(self, records: list[Record], answers: list[list[int]]) -> Brought:
        """See `Dialect`."""
        streams = Streams({i: Stream() for i in range(1, len(records) + 1)})
        frames = 0
        for pieces in {id(record.pieces): record.pieces for record in records}.values():
            for at, message in grpc_wire.messages(pieces):
                frames += take(streams, at, message)
        return Brought([streams[i].read(answer) for i, answer in enumerate(answers, 1)], frames)


def start(number: int, request: pb.GenerateRequest) -> bytes:
    """Return the bytes that begin a request of this id."""
    started = pb.SessionStart(id=number, request=request)
    return pb.SessionRequest(start=started).SerializeToString()


def batch(requests: list[bytes]) -> bytes:
    """Return the bytes that begin several, from those that begin each."""
    together = pb.SessionBatch(requests=map(pb.SessionRequest.FromString, requests))
    return pb.SessionRequest(batch=together).SerializeToString()


def take(streams: Streams, at: float, message: bytes) -> bool:
    """Give a `SessionResponse` to the streams that it is about. True if it carried deltas.

    Raises `LoadFailed` if it is not even well-formed.
    """
    response = pb.SessionResponse.FromString(message)
    for started in response.started:
        streams[started.id].start()
    for i, first, tokens, text in _entries(response.deltas):
        streams[i].go_on(at, first, tokens, text)
    for finished in response.finished:
        streams[finished.id].finish(finished.finished.usage.completion_tokens)
    for failed in response.failed:
        streams[failed.id].must(False, f"failed: {failed.failure.message}")
    for rejected in response.rejected:
        streams[rejected.id].must(False, f"rejected: {rejected.failure.message}")
    return bool(response.deltas.ids)


def _entries(deltas: pb.SessionDeltas) -> Iterator[tuple[int, int, list[int], str]]:
    """Yield the deltas of a message. Raises `LoadFailed` where its columns do not fit together."""
    columns = (deltas.ids, deltas.first_token_indexes, deltas.token_counts, deltas.texts)
    if len({len(column) for column in columns}) != 1:
        raise LoadFailed("the columns of a message's deltas differ in length")
    if len(set(deltas.ids)) != len(deltas.ids):
        raise LoadFailed("a request occurs twice in a message's deltas")
    if sum(deltas.token_counts) != len(deltas.token_ids):
        raise LoadFailed("a message has other tokens than its deltas count")
    tokens = list(deltas.token_ids)
    begin = 0
    for i, first, count, text in zip(*columns, strict=True):
        yield i, first, tokens[begin : begin + count], text
        begin += count
