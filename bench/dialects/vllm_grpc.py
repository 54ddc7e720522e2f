"""`vllm.grpc.engine.VllmEngine.Generate`, of vLLM's extra [grpc]. It sends no text."""

from typing import Any

from bench import grpc_wire
from bench.dialects.answers import wrong_tokens
from bench.dialects.dialect import CallEach, Reading, Workload
from bench.wire import Record, Wire


class VllmGrpc(CallEach):
    """See above."""

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        path = "/vllm.grpc.engine.VllmEngine/Generate"
        return grpc_wire.GrpcWire(address, path, work.connections)

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `CallEach`."""
        pb = _messages()
        request: bytes = pb.GenerateRequest(
            request_id=name,
            tokenized=pb.TokenizedInput(input_ids=prompt),
            sampling_params=pb.SamplingParams(
                temperature=0.0,
                top_p=1.0,
                repetition_penalty=1.0,
                max_tokens=work.tokens,
                ignore_eos=True,
                n=1,
            ),
            stream=True,
        ).SerializeToString()
        return request

    def read_one(self, record: Record, answer: list[int]) -> Reading:
        """See `CallEach`."""
        pb = _messages()
        times: list[float] = []
        tokens: list[int] = []
        for at, raw in grpc_wire.messages(record.pieces):
            message = pb.GenerateResponse.FromString(raw)
            if message.WhichOneof("response") == "chunk" and message.chunk.token_ids:
                times.append(at)
                tokens.extend(message.chunk.token_ids)
        return Reading(times, wrong_tokens(tokens, answer))


def _messages() -> Any:
    from smg_grpc_proto import vllm_engine_pb2  # type: ignore[import-not-found]  # .venv-bench

    return vllm_engine_pb2
