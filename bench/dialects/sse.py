"""Server-sent events with text: our bridge, and vLLM's OpenAI servers."""

import json
from abc import abstractmethod
from typing import Any

from bench import http_wire
from bench.dialects.answers import wrong_text
from bench.dialects.dialect import MODEL_NAME, CallEach, Reading, Workload
from bench.wire import Record, Wire


class _Sse(CallEach):
    path: str

    def wire(self, address: str, work: Workload) -> Wire:
        """See `Dialect`."""
        return http_wire.HttpWire(address, self.path)

    def read_one(self, record: Record, answer: list[int]) -> Reading:
        """See `CallEach`."""
        times: list[float] = []
        texts: list[str] = []
        done = False
        for at, data in http_wire.events(record.pieces):
            if data == b"[DONE]":
                done = True
                continue
            text = self._text(json.loads(data))
            if text:
                times.append(at)
                texts.append(text)
        wrong = wrong_text("".join(texts), answer)
        return Reading(times, wrong or (None if done else "no [DONE]"))

    @abstractmethod
    def _text(self, event: dict[str, Any]) -> str:
        """Return the text of one event's JSON."""


class Bridge(_Sse):
    """Our bridge."""

    path = "/v1/completions/stream"

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `CallEach`."""
        body = {
            "token_ids": prompt,
            "max_tokens": work.tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        if work.max_delay_ms is not None:
            body["max_delay_ms"] = work.max_delay_ms
        return json.dumps(body).encode()

    def _text(self, event: dict[str, Any]) -> str:
        return str(event.get("token", ""))


class OpenAi(_Sse):
    """`/v1/completions` of vLLM's OpenAI servers, Python and Rust."""

    path = "/v1/completions"

    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """See `CallEach`."""
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
