"""`robot-value bench NAME`: run one of the commands in benchmarks/ (a checkout has them, a wheel has not)."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from ..components import unknown
from ..flags import FlagError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(argv: Sequence[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if not known:
        raise FlagError("benchmarks/ is part of the source checkout, not of the installed package: run from a clone")
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: robot-value bench all | NAME [flags]; known: {', '.join(known)}")
        return 0
    name, *rest = argv
    if name not in (*known, "all"):
        raise FlagError(unknown("benchmark", name, [*known, "all"]))
    return max(_run(each, rest) for each in (known if name == "all" else [name]))


def _run(name: str, rest: Sequence[str]) -> int:
    path = FOLDER / f"bench_{name}.py"
    before, sys.argv = sys.argv, [str(path), *rest]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as done:
        return int(done.code or 0)
    finally:
        sys.argv = before
    return 0
