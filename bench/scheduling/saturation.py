"""What the engine can sustain, and how vLLM's own scheduler is set so that this is the most."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from bench import markdown
from bench.scheduling.measures import delivered_between, measure
from bench.scheduling.run import run
from bench.scheduling.traces import MEAN_OUTPUT_TOKENS, bursts, steady
from bench.scheduling.virtual_engine import EngineSetup

_SEED = 0
_RATE = 30.0  # requests a second: far beyond what any setting sustains
_UNTIL_S = 40.0
_SETTLED_S = 10.0
_WATERMARKS = (0.0, 0.01, 0.02, 0.05, 0.1)
_MOST_SEQUENCES = (64, 112, 128, 192, 256)


def saturated_tokens_per_s(setup: EngineSetup) -> float:
    """Tokens a second while there is always somebody waiting."""
    result = run(steady(_SEED, _RATE, _UNTIL_S), setup, until_s=_UNTIL_S)
    tokens = delivered_between(result.readings, _SETTLED_S, _UNTIL_S)
    return tokens / (_UNTIL_S - _SETTLED_S)


def sustainable_rate(tokens_per_s: float) -> float:
    """Requests a second of the usual sizes that make so many tokens a second."""
    return tokens_per_s / MEAN_OUTPUT_TOKENS


def tuning(setup: EngineSetup, told: Callable[[str], None]) -> str:
    """A table of vLLM's own scheduler with other settings: what `setup` was chosen from."""
    rate = sustainable_rate(saturated_tokens_per_s(setup))
    rows = [("watermark, max_num_seqs", "saturated tokens/s", "bursts: mean QoE", "TTFT p99 s")]
    for other in _settings(setup):
        name = f"{other.watermark:g}, {other.max_num_seqs}"
        told(f"tuning: {name}")
        saturated = saturated_tokens_per_s(other)
        burst = measure(run(bursts(_SEED, 2 * rate, 0.85 * rate), other))
        rows.append(
            (name, f"{saturated:,.0f}", f"{burst.quality:.3f}", f"{burst.first_token_p99:.2f}")
        )
    return markdown.table(rows)


def _settings(setup: EngineSetup) -> Iterator[EngineSetup]:
    for watermark in _WATERMARKS:
        yield replace(setup, watermark=watermark)
    for most in _MOST_SEQUENCES:
        if most != setup.max_num_seqs:
            yield replace(setup, max_num_seqs=most)
