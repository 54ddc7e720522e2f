"""`python -m bench.bridge`: HTTP stacks, what the bridge adds to first tokens, and held answers.

What it costs for each token is in `python -m bench`, beside the others.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench import goals, report
from bench.bridge import first_token, held, stacks
from bench.processes import ProcessFailed
from bench.wire import LoadFailed

_PARTS = ("stacks", "first-token", "held")
_MOST_KB = 60.0
_MOST_ADDED_MS = {50: 5.0, 99: 20.0}


def main(argv: Sequence[str]) -> int:
    """Run it. Returns 0, or 1 if an answer was wrong or a process failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="some parts")
    parser.add_argument("--streams", type=int, default=5000, help="answers held (%(default)s)")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    arguments = parser.parse_args(argv)
    with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log", delete=False) as file:
        log = Path(file.name)
    tables: list[str] = []
    rows: list[tuple[str, float, float, str]] = []
    try:
        if "stacks" in arguments.only:
            tables.append(stacks.render(stacks.measure(log, report.say)))
        if "first-token" in arguments.only:
            # In a process of its own, which it leaves without memory mappings for what follows.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as another:
                found = another.submit(first_token.measure, log, report.say).result()
            tables.append(first_token.render(found))
            for percent, most in _MOST_ADDED_MS.items():
                label = f"added to the first token, p{percent} ms"
                rows.append((label, most, found.added_ms(percent), "{:.1f}"))
        if "held" in arguments.only:
            kept = held.measure(log, report.say, arguments.streams)
            tables.append(held.render(kept))
            rows.append(("answers held: KB/stream", _MOST_KB, kept.kilobytes, "{:.0f}"))
            rows.append(("answers held: faults", 0, len(kept.wrong), "{:.0f}"))
            for wrong in kept.wrong:
                report.say(f"WRONG: {wrong}")
    except (ProcessFailed, LoadFailed, OSError) as error:
        report.say(str(error))
        return 1
    finally:
        log.unlink()
    tables.append(goals.table(rows))
    text = "\n".join(table for table in tables if table)
    print(text, end="")
    faults = any(label.endswith("faults") and value for label, _, value, _ in rows)
    if arguments.write and not faults:
        report.write("bench.bridge", argv, text)
    return int(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
