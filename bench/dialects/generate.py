"""Our `GenerationService.Generate`."""

from bench import grpc_wire
from bench.dialects.answers import wrong_text, wrong_tokens
from bench.dialects.dialect import CallEach, Reading, Workload
from bench.wire import Record, Wire
from tokenstream.v1 import generation_pb2 as pb


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
        path = "/tokenstream.v1.GenerationService/Generate"
        return grpc_wire.GrpcWire(address, path, work.connections)

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `CallEach`."""
        return generate_request(work, prompt).SerializeToString()

    def read_one(self, record: Record, answer: list[int]) -> Reading:
        """See `CallEach`."""
        times: list[float] = []
        tokens: list[int] = []
        text = ""
        finished = False
        for at, raw in grpc_wire.messages(record.pieces):
            message = pb.GenerateResponse.FromString(raw)
            finished = message.WhichOneof("event") == "finished"
            if message.WhichOneof("event") == "delta":
                if message.delta.first_token_index != len(tokens):
                    return Reading(times, f"a gap at token {len(tokens)}")
                times.append(at)
                tokens.extend(message.delta.token_ids)
                text += message.delta.text
        wrong = wrong_tokens(tokens, answer) or wrong_text(text, answer)
        return Reading(times, wrong or (None if finished else "no finished event"))
