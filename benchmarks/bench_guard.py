"""Does the guard keep its promises? Its core against random inputs, its process against killed sources and full cores.

    python benchmarks/bench_guard.py --quick                                  # minutes
    python benchmarks/bench_guard.py --cycles=1000000 --trials=300 --out=docs/results/guard.json

Three parts, each left out with 0: `--cycles` random control periods of the core, every published command judged by an
independent oracle; `--trials` SIGKILLs of the state's and of the plans' source and emergency stops at random phases,
idle and with both cores saturated; `--seconds` of undisturbed commands for the interval between them. What `--out`
holds of a part or load that this call leaves out stays, each with the command and commit it came from; the same
command goes on where it was interrupted. Exits 1 where a command broke a limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=1_000_000, help="control periods of the core")
    parser.add_argument("--trials", type=int, default=300, help="kills per source, and emergency stops, per load")
    parser.add_argument("--seconds", type=float, default=300.0, help="s of undisturbed commands per load")
    parser.add_argument("--loads", default="idle,saturated", help="idle, saturated or both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="5,000 cycles, 2 trials and 5 s, idle only")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write; shown in any case")
    options = parser.parse_args(arguments)
    if options.quick:
        options.cycles, options.trials, options.seconds, options.loads = 5000, 2, 5.0, "idle"
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out and options.out.is_file() else {}
    results["format_version"] = 1
    if options.cycles:
        import guard_properties

        started = time.monotonic()
        results["properties"] = guard_properties.run(options.cycles, options.seed) | provenance(started)
        _write(options.out, results)
    for load in options.loads.split(",") if options.trials else []:
        import guard_reactions

        started, sizes = time.monotonic(), {"trials": options.trials, "seconds": options.seconds}
        name = "both cores saturated" if load == "saturated" else load
        others = [row for row in results.get("reactions", []) if row["load"] != name]
        known = [row for row in results.get("reactions", []) if row["load"] == name and sizes.items() <= row.items()]

        def keep(found: dict, others: list = others, sizes: dict = sizes, started: float = started) -> None:
            results["reactions"] = [*others, found | sizes | provenance(started)]
            _write(options.out, results)

        guard_reactions.measure(
            options.trials, options.seconds, load == "saturated", options.seed, *known or [{}], keep
        )
    broken = [results.get("properties", {}).get("violations", 0)]
    broken += [found["commands"]["violations"] for found in results.get("reactions", [])]
    return int(any(broken))


def _write(out: Path | None, results: dict) -> None:
    text = json.dumps(plain(results), indent=2, allow_nan=False) + "\n"
    print(text)
    if out:
        write_atomic(out, text)


if __name__ == "__main__":
    sys.exit(main())
