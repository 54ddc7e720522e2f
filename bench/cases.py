"""The lines of the table: which server, asked how."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """A line. `server` and `dialect` name entries of `SERVERS` and `DIALECTS`.

    `server` None: the raw engine client, which is server and load in one. `stream_interval`:
    vLLM's way to merge, in tokens, set when it starts; `max_delay_ms`: ours, in the request, where
    None leaves it to the service. `streams`: the line's own number of requests at once, otherwise
    `--streams`. `alone`: the frontend has a core to itself, everything else the other cores.
    """

    name: str
    label: str
    server: str | None
    dialect: str = ""
    stream_interval: int = 1
    max_delay_ms: int | None = None
    streams: int | None = None
    alone: bool = False

    @property
    def start(self) -> tuple[str | None, str, int, bool]:
        """Cases with the same one share a running server and the memory that it has grown to."""
        return (self.server, self.dialect, self.stream_interval, self.alone)


# Those that share a server stand together, the largest load first: it tells most about memory.
CASES = (
    Case("engine", "floor: vLLM's engine client, tokens dropped", None),
    Case("writer", "floor: grpc.aio that only writes", "floor-writer", "floor"),
    Case("session", "Session, every step", "service", "session", max_delay_ms=0),
    Case(
        "session-64",
        "Session, every step, 64 streams",
        "service",
        "session",
        max_delay_ms=0,
        streams=64,
    ),
    Case("session-50", "Session, 50 ms delay", "service", "session", max_delay_ms=50),
    Case("generate", "Generate, one token a message", "service", "generate", max_delay_ms=0),
    Case("generate-50", "Generate, 50 ms delay", "service", "generate", max_delay_ms=50),
    Case("generate-adaptive", "Generate, adaptive", "service", "generate"),
    Case(
        "generate-512",
        "Generate, adaptive, 512 streams, a core alone",
        "service",
        "generate",
        streams=512,
        alone=True,
    ),
    Case("bridge", "bridge (SSE), one token an event", "bridge", "bridge", max_delay_ms=0),
    Case("bridge-50", "bridge (SSE), 50 ms delay", "bridge", "bridge", max_delay_ms=50),
    Case("bridge-openai", "bridge, OpenAI's path, 50 ms delay", "bridge", "openai"),
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
