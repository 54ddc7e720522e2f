"""Our `GenerationService.Generate`."""

from bench import grpc_wire
from bench.dialects.dialect import CallEach, Reading, Workload
from bench.dialects.stream import Stream
from bench.wire import Pieces, Record, Wire
from tokenstream.v1 import generation_pb2 as pb

PATH = "/tokenstream.v1.GenerationService/Generate"


def generate_request(work: Workload, prompt: list[int]) -> pb.GenerateRequest:
    """Return what asks for exactly `work.tokens` tokens."""
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt),
        sampling=pb.SamplingOptions(max_tokens=work.tokens, temperature=0, ignore_eos=True),
        stream=pb.StreamOptions(max_delay_ms=work.max_delay_ms),
    )


class Generate(CallEach):
    """See above."""

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        return grpc_wire.GrpcWire(address, PATH, work.connections)

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `CallEach`."""
        return generate_request(work, prompt).SerializeToString()

    def read_one(self, record: Record, answer: list[int]) -> Reading:
        """See `CallEach`."""
        return read_stream(record.pieces).read(answer)


def read_stream(pieces: Pieces) -> Stream:
    """Read what has come of a call."""
    stream = Stream()
    for at, raw in grpc_wire.messages(pieces):
        message = pb.GenerateResponse.FromString(raw)
        match message.WhichOneof("event"):
            case "started":
                stream.start()
            case "delta":
                delta = message.delta
                stream.go_on(at, delta.first_token_index, list(delta.token_ids), delta.text)
            case "finished":
                stream.finish(message.finished.usage.completion_tokens)
    return stream
