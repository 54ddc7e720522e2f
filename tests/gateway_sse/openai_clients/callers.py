"""OpenAI's official clients behind one face: those for Python and for Node."""

import asyncio
import json
import subprocess
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openai

SCRIPTS = Path(__file__).parents[2] / "clients_node"
PATIENCE_S = 20.0


@dataclass
class Result:
    """What a call gave."""

    answer: Any = None
    """In one piece."""
    chunks: list[Any] = field(default_factory=list)
    error: dict[str, Any] | None = None

    def texts(self) -> dict[int, str]:
        """The chunks' text, joined for each choice."""
        joined: dict[int, str] = {}
        for chunk in self.chunks:
            for choice in chunk["choices"]:
                text = choice["delta"].get("content") if "delta" in choice else choice["text"]
                joined[choice["index"]] = joined.get(choice["index"], "") + (text or "")
        return joined

    def reasons(self) -> dict[int, str]:
        """The finish reason of each choice; none comes twice."""
        given = [
            (choice["index"], choice["finish_reason"])
            for chunk in self.chunks
            for choice in chunk["choices"]
            if choice["finish_reason"] is not None
        ]
        assert len(dict(given)) == len(given)
        return dict(given)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client."""

    call: str
    body: dict[str, Any] | None
    api_key: str
    retries: int
    abort_after: int | None
    """After so many chunks."""


class Caller(ABC):
    """A client, told where the bridge is."""

    async def __call__(
        self,
        call: str,
        body: dict[str, Any] | None = None,
        *,
        api_key: str = "key",
        retries: int = 0,
        abort_after: int | None = None,
    ) -> Result:
        """Make a call: "chat", "completion", "models" or "model"."""
        return await self._make(Call(call, body, api_key, retries, abort_after))

    @abstractmethod
    async def _make(self, call: Call) -> Result:
        """Make it, whatever comes of it."""


class PythonCaller(Caller):
    """The official client for Python."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    async def _make(self, call: Call) -> Result:
        result, body = Result(), call.body or {}
        async with openai.AsyncOpenAI(
            base_url=self._base_url, api_key=call.api_key, max_retries=call.retries
        ) as client:
            try:
                answer = await self._answer(client, call.call, body)
                if not body.get("stream"):
                    result.answer = answer.model_dump(exclude_unset=True)
                    return result
                async for chunk in answer:
                    result.chunks.append(chunk.model_dump(exclude_unset=True))
                    if len(result.chunks) == call.abort_after:
                        await answer.close()
                        break
            except openai.APIError as error:
                result.error = {
                    "name": type(error).__name__,
                    "status": getattr(error, "status_code", None),
                    "message": error.message,
                    "code": error.code,
                    "param": error.param,
                    "type": error.type,
                }
        return result

    async def _answer(self, client: openai.AsyncOpenAI, call: str, body: dict[str, Any]) -> Any:
        match call:
            case "chat":
                return await client.chat.completions.create(**body)
            case "completion":
                return await client.completions.create(**body)
            case "models":
                return await client.models.list()
            case _:
                return await client.models.retrieve(body["model"])


class NodeWorker:
    """A script of `tests/clients_node`, which takes jobs until it is closed."""

    def __init__(self, script: str) -> None:
        self._process = subprocess.Popen(
            ["node", script],
            cwd=SCRIPTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    async def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job; what it prints."""
        async with asyncio.timeout(PATIENCE_S):
            line = await asyncio.to_thread(self._ask, json.dumps(job))
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, job: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(job + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("the script ended; scripts/node-clients installs what it needs")
        return line


class NodeCaller(Caller):
    """The official client for Node."""

    def __init__(self, worker: NodeWorker, base_url: str) -> None:
        self._worker = worker
        self._base_url = base_url

    async def _make(self, call: Call) -> Result:
        return Result(**await self._worker.run({"base_url": self._base_url, **asdict(call)}))


async def still_works(caller: Caller, api_key: str = "key") -> None:
    """Make another call after one that was aborted.

    Node opens a connection for it beforehand. Unused, it could come in just when the bridge closes,
    and asyncio does not close one that it accepts in that moment.
    """
    assert (await caller("models", api_key=api_key)).error is None
