"""Is every fault of the matrix survived? The real nodes, the fault injected again and again, an independent judge.

Each case also runs with its protection taken away, and must then fail: else it proves nothing. Results are written
fault by fault into one JSON file; the same command goes on where it was interrupted. A reaction beyond its bound is
tried once more, a trial during which harness or machine stalled is tried again: both count under `repeats`. One that
the machine spoils every time was not seen; a case with such trials or with failures is played anew by the next call,
and what failed before stays in its row (`earlier`). Exits 1 on any failure, and where something was not seen.

    python benchmarks/bench_faults.py --trials=20
    python benchmarks/bench_faults.py --only=F7,F28 --trials=3 --out=/tmp/faults.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from faults_case import Disturbed, Graph, NotSurvived, Pure
from faults_rig import Rig
from faults_steering_rig import SteeringRig
from faults_table import CASES, QUICK

from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic

FORMAT_VERSION = 1
CONTROLS = 5  # moments at which a case is tried without its protection, until one is not survived
AGAIN = 5  # times that a trial is repeated at most, where the machine spoiled it
OUT = Path(__file__).resolve().parents[1] / "docs" / "results" / "faults.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="ids, e.g. F7,F28; empty: all")
    parser.add_argument("--trials", type=int, default=20, help="of every case")
    parser.add_argument("--quick", action="store_true", help="one trial of a short selection, no controls")
    parser.add_argument("--fresh", action="store_true", help="forget what the result file holds of these cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if (case.id, case.part) in QUICK] if options.quick else list(CASES)
    if wanted := [name for name in options.only.split(",") if name]:
        cases = [case for case in cases if case.id in wanted]
    book = Book(options.out, sys.argv, () if not options.fresh else cases)
    trials = 1 if options.quick else options.trials
    with tempfile.TemporaryDirectory() as folder, Rigs(Path(folder)) as rigs:
        for case in sorted(cases, key=lambda case: getattr(case, "rig", "")):  # nodes run on between cases
            if not book.played(case, trials):
                book.add(play(case, rigs, trials, options.seed))
        for case in () if options.quick else cases:
            if book.row(case)["control_fails"] is not True:
                book.add({**book.row(case), **control(case, rigs, options.seed)})
    failed = [case for case in cases if not passed(book.row(case))]
    print(f"{'FAIL' if failed else 'PASS'}: {len(cases) - len(failed)} of {len(cases)} cases; {options.out}")
    return 1 if failed else 0


def play(case: Pure | Graph, rigs: Rigs, trials: int, seed: int) -> dict[str, Any]:
    """The row of results of one case, its control not yet tried."""
    began, outcomes, repeats = time.monotonic(), [], 0
    for number in range(trials):
        outcome, again = attempt(case, rigs, seed + number), AGAIN
        while again and (outcome.disturbed or outcome.late):
            again = again - 1 if outcome.disturbed else 0  # too late once may be anybody's fault on a shared machine
            repeats += 1
            outcome = attempt(case, rigs, seed + number)
        outcomes.append(outcome)
    seen = [outcome for outcome in outcomes if not outcome.disturbed]
    ms = np.array([outcome.ms for outcome in seen if outcome.ms is not None])
    failures = [outcome.why for outcome in seen if outcome.why]
    return {
        **{key: getattr(case, key) for key in ("id", "part", "fault", "expected", "control")},
        "phase": getattr(case, "phase", "pure function"),
        "trials": len(seen),
        "not_seen": trials - len(seen),
        "cases": sum(outcome.cases for outcome in seen),
        "passes": len(seen) - len(failures),
        "control_fails": None,
        "control_tries": 0,
        "control_says": "",
        **{f"p{q}_ms": float(np.percentile(ms, q)) if len(ms) else None for q in (50, 99)},
        "max_ms": float(ms.max()) if len(ms) else None,
        "bound_ms": getattr(case, "bound_ms", None),
        "repeats": repeats,
        "failures": [placeless(why)[:300] for why in failures[:5]],
        "seconds": round(time.monotonic() - began, 1),
    }


def control(case: Pure | Graph, rigs: Rigs, seed: int) -> dict[str, Any]:
    """The same without the protection: it must not be survived at every moment of it that is tried."""
    for tried in range(1, CONTROLS + 1):
        outcome = attempt(case, rigs, seed + tried - 1, control=True)
        if outcome.why and not outcome.disturbed:
            break
    fails = bool(outcome.why) and not outcome.disturbed
    return {"control_fails": fails, "control_tries": tried, "control_says": placeless(outcome.why)[:300]}


def placeless(text: str) -> str:
    """Without this machine's folders."""
    return text.replace(str(Path(__file__).parents[1]), ".").replace(tempfile.gettempdir(), "TMP")


class Outcome:
    """One trial: why it was not survived (""), how long the reaction took, how many cases it tried."""

    def __init__(
        self,
        why: str = "",
        ms: float | None = None,
        cases: int = 1,
        late: bool = False,  # survived, but beyond its bound
        disturbed: bool = False,  # the machine spoiled it
    ) -> None:
        self.why, self.ms, self.cases, self.late, self.disturbed = why, ms, cases, late, disturbed


def attempt(case: Pure | Graph, rigs: Rigs, seed: int, control: bool = False) -> Outcome:
    rng = np.random.default_rng(seed)
    if isinstance(case, Pure):
        return _pure(case, rng, control)
    rig = rigs.get(case, case.unprotected if control else "")
    spoiled = True
    try:
        rig.begin()
        ms = case.trial(rig, rng)
        rig.judge()
        spoiled = case.spoils
    except AssertionError as error:
        return Outcome(str(error) or type(error).__name__, disturbed=isinstance(error, Disturbed))
    finally:
        if spoiled or control:
            rigs.drop(rig)
    if ms is not None and case.bound_ms is not None and ms > case.bound_ms:
        return Outcome(f"reaction {ms:.1f} ms, expected at most {case.bound_ms:g} ms", ms, late=True)
    return Outcome("", ms)


def _pure(case: Pure, rng: np.random.Generator, control: bool) -> Outcome:
    try:
        if not control:
            return Outcome(cases=case.trial(rng))
        with case.unprotected():
            return Outcome(cases=case.trial(rng))
    except NotSurvived as error:
        return Outcome(str(error))


class Rigs:
    """Nodes that run on between trials of cases that want the same ones; one set at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rig, self.key, self.count = folder, None, None, 0

    def get(self, case: Graph, unprotected: str) -> Rig:
        key = (case.rig, str(unprotected))
        if self.rig is None or self.key != key:
            self.drop(self.rig)
            self.count += 1
            folder = self.folder / f"rig_{self.count}"
            folder.mkdir()
            made = SteeringRig if case.rig == "steering" else Rig
            self.rig, self.key = made(folder, case.rig, unprotected), key
        return self.rig

    def drop(self, rig: Rig | None) -> None:
        if rig is not None:
            self.rig = None
            rig.close()

    def __enter__(self) -> Rigs:
        return self

    def __exit__(self, *problem: Any) -> None:
        self.drop(self.rig)


class Book:
    """The result file: one row per case, replaced when it is played again."""

    def __init__(self, path: Path, argv: Sequence[str], forgotten: Sequence[Pure | Graph]) -> None:
        self.path, self.argv, self.began = path, argv, time.monotonic()
        known = json.loads(path.read_text(encoding="utf-8"))["faults"] if path.is_file() else []
        self.known = {(row["id"], row["part"]): row for row in known}
        for case in forgotten:
            self.known.pop((case.id, case.part), None)

    def row(self, case: Pure | Graph) -> dict[str, Any]:
        return self.known[case.id, case.part]

    def played(self, case: Pure | Graph, trials: int) -> bool:
        row = self.known.get((case.id, case.part))
        return row is not None and row["trials"] >= trials and row["passes"] == row["trials"]

    def add(self, row: dict[str, Any]) -> None:
        about, before = provenance(self.began, list(self.argv)), self.known.get((row["id"], row["part"]))
        if before and row.get("earlier") is None:
            row["earlier"] = before.get("earlier", [])
            if before["passes"] < before["trials"]:
                row["earlier"] = [
                    *row["earlier"],
                    {key: before[key] for key in ("trials", "passes", "failures", "git")},
                ]
        self.known[row["id"], row["part"]] = plain({**row, "git": about["git"]})
        order = {(case.id, case.part): i for i, case in enumerate(CASES)}
        rows = sorted(self.known.values(), key=lambda row: order.get((row["id"], row["part"]), len(order)))
        result = {"format_version": FORMAT_VERSION, **about, "faults": rows}
        write_atomic(self.path, json.dumps(plain(result), indent=2, allow_nan=False) + "\n")
        print(line(row), flush=True)


def passed(row: dict[str, Any]) -> bool:
    return row["passes"] == row["trials"] > 0 and not row.get("not_seen") and row["control_fails"] is not False


def line(row: dict[str, Any]) -> str:
    name = f"{row['id']} {row['part']}".strip()
    times = f", {row['p50_ms']:.0f} / {row['max_ms']:.0f} ms (p50 / max)" if row["max_ms"] is not None else ""
    control = {True: "control fails", False: "CONTROL SURVIVES", None: "control not tried"}[row["control_fails"]]
    failures = "".join(f"\n    {why}" for why in row["failures"])
    unseen = f" ({row['not_seen']} not seen)" if row["not_seen"] else ""
    return f"{name:<16} {row['passes']}/{row['trials']}{unseen}{times}, {control}, {row['seconds']:.0f} s{failures}"


if __name__ == "__main__":
    raise SystemExit(main())
