"""What each server is asked, and how its answer is read and checked against the known tokens.

A dialect makes a request's bytes before the load and reads an answer's after it; neither is
measured. gRPC answers are checked token by token, server-sent events by their text: the known
tokens are whole characters, so their texts joined are the answer's text.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import demo_model
from bench import grpc_wire, http_wire
from bench.known_tokens import KnownTokens
from bench.wire import Record, Wire


@dataclass(frozen=True, slots=True)
class Workload:
    """The same for every server. `max_delay_ms`: where the server lets the request say."""

    streams: int
    tokens: int
    prompt_tokens: int
    connections: int = 1  # of gRPC clients; HTTP/1.1 has one for each stream
    max_delay_ms: int = 0
    known: KnownTokens = field(default_factory=KnownTokens)


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer: the times of its messages that carried tokens, and what is wrong with it."""

    times: Sequence[float]
    wrong: str | None


class Dialect(Protocol):
    """How to speak to one kind of server."""

    def wire(self, address: str, work: Workload) -> Wire:
        """The client for it."""

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """A request's bytes. `name`: unique within the server's life."""

    def read(self, record: Record, answer: list[int]) -> Reading:
        """Read a record and hold it against the tokens that should have come."""


class Generate:
    """Our `GenerationService.Generate`."""

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        path = "/tokenstream.v1.GenerationService/Generate"
        return grpc_wire.GrpcWire(address, path, work.connections)

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `Dialect`."""
        from tokenstream.v1 import generation_pb2 as pb

        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=prompt),
            sampling=pb.SamplingOptions(max_tokens=work.tokens, temperature=0, ignore_eos=True),
            stream=pb.StreamOptions(max_delay_ms=work.max_delay_ms),
        )
        return request.SerializeToString()

    def read(self, record: Record, answer: list[int]) -> Reading:
        """See `Dialect`."""
        from tokenstream.v1 import generation_pb2 as pb

        times: list[float] = []
        tokens: list[int] = []
        text = ""
        finished = False
        for at, raw in grpc_wire.messages(record):
            message = pb.GenerateResponse.FromString(raw)
            finished = message.WhichOneof("event") == "finished"
            if message.WhichOneof("event") == "delta":
                if message.delta.first_token_index != len(tokens):
                    return Reading(times, f"a gap at token {len(tokens)}")
                times.append(at)
                tokens.extend(message.delta.token_ids)
                text += message.delta.text
        wrong = _compare(tokens, answer) or _compare_text(text, answer)
        return Reading(times, wrong or (None if finished else "no finished event"))


class VllmGrpc:
    """`vllm.grpc.engine.VllmEngine.Generate`, of vLLM's extra [grpc]. It sends no text."""

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        path = "/vllm.grpc.engine.VllmEngine/Generate"
        return grpc_wire.GrpcWire(address, path, work.connections)

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `Dialect`."""
        pb = _vllm_messages()
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

    def read(self, record: Record, answer: list[int]) -> Reading:
        """See `Dialect`."""
        pb = _vllm_messages()
        times: list[float] = []
        tokens: list[int] = []
        for at, raw in grpc_wire.messages(record):
            message = pb.GenerateResponse.FromString(raw)
            if message.WhichOneof("response") == "chunk" and message.chunk.token_ids:
                times.append(at)
                tokens.extend(message.chunk.token_ids)
        return Reading(times, _compare(tokens, answer))


class _Sse(ABC):
    """Server-sent events with text."""

    path: str

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        return http_wire.HttpWire(address, self.path)

    def read(self, record: Record, answer: list[int]) -> Reading:
        """See `Dialect`."""
        times: list[float] = []
        texts: list[str] = []
        done = False
        for at, data in http_wire.events(record):
            if data == b"[DONE]":
                done = True
                continue
            text = self._text(json.loads(data))
            if text:
                times.append(at)
                texts.append(text)
        wrong = _compare_text("".join(texts), answer)
        return Reading(times, wrong or (None if done else "no [DONE]"))

    @abstractmethod
    def _text(self, event: dict[str, Any]) -> str:
        """Return the text of one event's JSON."""


class Bridge(_Sse):
    """Our bridge."""

    path = "/v1/completions/stream"

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `Dialect`."""
        body = {
            "token_ids": prompt,
            "max_tokens": work.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "max_delay_ms": work.max_delay_ms,
        }
        return json.dumps(body).encode()

    def _text(self, event: dict[str, Any]) -> str:
        return str(event.get("token", ""))


class OpenAi(_Sse):
    """`/v1/completions` of vLLM's OpenAI servers, Python and Rust."""

    path = "/v1/completions"

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `Dialect`."""
        body = {
            "model": MODEL_NAME,
            "prompt": prompt,
            "max_tokens": work.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        return json.dumps(body).encode()

    def _text(self, event: dict[str, Any]) -> str:
        choices = event.get("choices")
        return str(choices[0]["text"]) if choices else ""


class Floor:
    """The bare writer of `floor_writer`: as many messages as tokens, all the same."""

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        return grpc_wire.GrpcWire(address, "/bench.Floor/Write", work.connections)

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `Dialect`."""
        return str(work.tokens).encode()

    def read(self, record: Record, answer: list[int]) -> Reading:
        """See `Dialect`."""
        times = [at for at, _ in grpc_wire.messages(record)]
        wrong = None if len(times) == len(answer) else f"{len(times)} messages of {len(answer)}"
        return Reading(times, wrong)


MODEL_NAME = "simulated"

DIALECTS: dict[str, Callable[[], Dialect]] = {
    "generate": Generate,
    "vllm-grpc": VllmGrpc,
    "bridge": Bridge,
    "openai": OpenAi,
    "floor": Floor,
}


def _compare(tokens: Sequence[int], answer: Sequence[int]) -> str | None:
    for position, (token, wanted) in enumerate(zip(tokens, answer, strict=False)):
        if token != wanted:
            return f"token {position} is {token}, not {wanted}"
    return None if len(tokens) == len(answer) else f"{len(tokens)} tokens of {len(answer)}"


def _compare_text(text: str, answer: Sequence[int]) -> str | None:
    wanted = "".join(_token_text(token) for token in answer)
    if text == wanted:
        return None
    same = next((i for i, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b), -1)
    return f"the text differs at {same}: {len(text)} characters of {len(wanted)}"


@cache
def _token_text(token: int) -> str:
    return str(_tokenizer().decode([token], skip_special_tokens=False))


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(demo_model.path() / "tokenizer.json"))


def _vllm_messages() -> Any:
    from smg_grpc_proto import vllm_engine_pb2  # type: ignore[import-not-found]  # .venv-bench

    return vllm_engine_pb2
