"""The bare writer of `floor_writer`: as many messages as tokens, all the same."""

from bench import grpc_wire
from bench.dialects.dialect import CallEach, Reading, Workload
from bench.wire import Record, Wire


class Floor(CallEach):
    """See above."""

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        return grpc_wire.GrpcWire(address, "/bench.Floor/Write", work.connections)

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `CallEach`."""
        return str(work.tokens).encode()

    def read_one(self, record: Record, answer: list[int]) -> Reading:
        """See `CallEach`."""
        times = [at for at, _ in grpc_wire.messages(record.pieces)]
        wrong = None if len(times) == len(answer) else f"{len(times)} messages of {len(answer)}"
        return Reading(times, wrong)
