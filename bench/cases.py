"""The lines of the table: which server, asked how."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """A line. `server` and `dialect` name entries of `SERVERS` and `DIALECTS`.

    `server` None: the raw engine client, which is server and load in one. `stream_interval`:
    vLLM's way to merge, in tokens, set when it starts; `max_delay_ms`: ours, in the request.
    """

    name: str
    label: str
    server: str | None
    dialect: str = ""
    stream_interval: int = 1
    max_delay_ms: int = 0

    @property
    def start(self) -> tuple[str | None, int]:
        """Cases with the same one share a running server."""
        return (self.server, self.stream_interval)


# Those that share a server stand together.
CASES = (
    Case("engine", "floor: vLLM's engine client, tokens dropped", None),
    Case("writer", "floor: grpc.aio that only writes", "floor-writer", "floor"),
    Case("generate", "Generate", "service", "generate"),
    Case("generate-50", "Generate, 50 ms delay", "service", "generate", max_delay_ms=50),
    Case("bridge", "bridge (SSE)", "bridge", "bridge"),
    Case("bridge-50", "bridge (SSE), 50 ms delay", "bridge", "bridge", max_delay_ms=50),
    Case("openai", "vLLM OpenAI server, Python (SSE)", "openai", "openai"),
    Case("openai-3", "the same, stream interval 3", "openai", "openai", stream_interval=3),
    Case("vllm-grpc", "vLLM gRPC server, Python", "vllm-grpc", "vllm-grpc"),
    Case("vllm-grpc-3", "the same, stream interval 3", "vllm-grpc", "vllm-grpc", stream_interval=3),
)


def chosen(names: str | None) -> list[Case]:
    """Return the cases whose names are listed, separated by commas; all for None.

    Raises ValueError for a name that there is not.
    """
    if names is None:
        return list(CASES)
    wanted = [name.strip() for name in names.split(",")]
    known = [case.name for case in CASES]
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no case {name!r}; there are {', '.join(known)}")
    return [case for case in CASES if case.name in wanted]
