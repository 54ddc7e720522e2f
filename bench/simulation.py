"""What the simulated engine is like: how long its steps take, how much it can hold, its tokens.

No vLLM here. The settings travel to the engine process in vLLM's own `additional_config`, under
the key `simulation`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from bench.known_tokens import DEMO_COUNT, DEMO_FIRST, KnownTokens

EXECUTOR = "bench.simulated_executor.SimulatedExecutor"
_KEY = "simulation"


@dataclass(frozen=True, slots=True)
class Simulation:
    """A step lasts the sum of the four times (microseconds); none may be negative.

    `kv_tokens`: size of the KV cache in tokens, at least 1; vLLM rounds it down to blocks.
    `async_scheduling`: schedule the next step while one runs, as vLLM does on a GPU; its CPU
    platform always switches that off, so the executor switches it on again.
    """

    step_us: float = 20_000
    per_sequence_us: float = 0
    per_prefill_token_us: float = 0
    per_context_token_us: float = 0
    kv_tokens: int = 1 << 20
    first_token: int = DEMO_FIRST
    token_count: int = DEMO_COUNT
    async_scheduling: bool = True

    def __post_init__(self) -> None:
        times = (
            self.step_us,
            self.per_sequence_us,
            self.per_prefill_token_us,
            self.per_context_token_us,
        )
        if min(times) < 0 or self.first_token < 0:
            raise ValueError("simulation: no time and no token id may be negative")
        if self.kv_tokens < 1 or self.token_count < 1:
            raise ValueError("simulation: kv_tokens and token_count must be at least 1")

    @property
    def tokens(self) -> KnownTokens:
        """The tokens that it samples."""
        return KnownTokens(self.first_token, self.token_count)

    def step_s(self, sequences: int, prefill_tokens: int, context_tokens: int) -> float:
        """Seconds that a step takes. `context_tokens`: computed before it, over all sequences."""
        return 1e-6 * (
            self.step_us
            + self.per_sequence_us * sequences
            + self.per_prefill_token_us * prefill_tokens
            + self.per_context_token_us * context_tokens
        )

    def engine_args(self) -> dict[str, Any]:
        """The arguments that make vLLM's engine a simulated one."""
        return {
            "distributed_executor_backend": EXECUTOR,
            "additional_config": {_KEY: asdict(self)},
        }

    @classmethod
    def from_additional_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the settings from vLLM's `additional_config`; what is not there has its default.

        Raises ValueError for a name that is not known.
        """
        given = dict(config.get(_KEY, {}))
        strange = given.keys() - {f.name for f in fields(cls)}
        if strange:
            raise ValueError(f"simulation: there is no setting {sorted(strange)[0]!r}")
        return cls(**given)
