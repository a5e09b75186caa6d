"""Are planted bugs found by the replay page's warnings alone, and is a clean log left in peace?

A cell is one log with one bug, planted by seed, whose warnings are read; the log's critics are judged on the clean one.
Detectors were made on the development logs; the held-out rows decide: precision and recall of at least 0.9 per bug, at
most one warning per 100 clean episodes. Data, models and cells are kept: what was done is not done again. Once their
rows were read, held-out logs are development logs: --earlier keeps those rows.

    python benchmarks/bench_planted_bugs.py            # --logs can door: only these
    python benchmarks/bench_planted_bugs.py --quick    # a smoke test: tiny sizes, no meaning
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # worker processes get it from here

from planted_bugs import BUGS, MemoryLog, counts, frozen_camera, plant
from planted_logs import LOGS, Log, Size, last, make, train
from steering_study_protocol import key

from robot_value import components
from robot_value.episodes import EpisodeStore
from robot_value.episodes.findings import Finding
from robot_value.provenance import provenance
from robot_value.replay.diagnoses import of_critics
from robot_value.replay.logged_robot import LoggedRobot
from robot_value.replay.scribe import replay
from robot_value.replay.survey import Survey, survey
from robot_value.replay.warnings import warnings, warnings_of_data
from robot_value.results import plain, write_atomic
from robot_value.statistics import wilson
from robot_value.steering.steerer import Steerer
from robot_value.training import load_model, load_policy
from robot_value.workers import process_pool, run_all

ASKED, PER_HUNDRED = 0.9, 1.0  # precision and recall; warnings per 100 clean episodes
CLEAN, CRITICS, FROZEN, LABELS = "none", "shuffled rewards", "camera frozen", "labels swapped"
SOURCES = (
    "replay/check_*.py",
    "replay/critics.py",
    "replay/survey.py",
    "replay/warnings.py",
    "episodes/findings.py",
)  # what warns


@dataclass(frozen=True)
class Cell:
    """One log with one bug, or none, judged. Of critics, those are counted that were warned about."""

    log: str
    bug: str
    seed: int
    episodes: int  # in the log
    found: int  # episodes; critics; logs, where the bug is everywhere
    false: int
    missed: int
    others: Sequence[str]  # warnings of anything else


def main(argv: Sequence[str] | None = None) -> int:
    options, started = parse(argv), time.monotonic()
    size = replace(Size(40, 1, 1, 100, 20) if options.quick else Size(), critics=options.critics)
    logs = [log for log in LOGS if log.name in options.logs]
    cells = run(logs, size, options.data / ("quick" if options.quick else "full"), options.workers)
    rows = summary(cells)
    report = {
        "format_version": 1,
        **provenance(started),
        "size": asdict(size),
        "logs": [asdict(log) for log in logs],
        "asked": {"precision_and_recall": ASKED, "warnings_per_100_clean_episodes": PER_HUNDRED},
        "passed": all(row["passed"] for row in rows if row["held_out"]),
        "rows": rows,
        "earlier": options.earlier and before(options.earlier),
        "cells": [asdict(cell) for cell in cells],
    }
    write_atomic(options.out, json.dumps(plain(report), indent=1, allow_nan=False) + "\n")
    print(table(rows), f"written to {options.out}", sep="\n")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small: says that it runs, not how well it finds")
    names = [log.name for log in LOGS]
    parser.add_argument("--logs", nargs="+", choices=names, default=names, metavar="LOG", help="only these")
    critics = "critics of each kind per log; 0: only data are judged, no model is trained"
    parser.add_argument("--critics", type=int, default=Size.critics, help=critics)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--data", type=Path, default=Path("outputs/planted"), help="logs, models and cells, kept")
    parser.add_argument("--earlier", type=Path, help="the report of the round before, kept inside this one")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/planted_bugs.json"), help="result file")
    return parser.parse_args(argv)


def before(path: Path) -> dict[str, Any]:
    """The report of an earlier round, without its cells."""
    return {name: part for name, part in json.loads(path.read_text(encoding="utf-8")).items() if name != "cells"}


def run(logs: Sequence[Log], size: Size, root: Path, workers: int) -> list[Cell]:
    for log in logs:
        make(log, root, size, workers)
    models = [(log, which) for log in logs if log.critics(size) for which in ("policy", *log.critics(size))]
    with process_pool(workers) as pool:
        run_all(pool, {(log.name, which): (train, (log, root, which, size)) for log, which in models}, "models")
        judgements = run_all(pool, {log.name: (judged, (log, root, size)) for log in logs}, "logs")
        return [cell for cells in judgements.values() for cell in cells]


def planting(log: Log, size: Size) -> list[tuple[str, int]]:
    """Bugs and seeds."""
    bugs = [bug for bug in BUGS if log.solved or bug != LABELS] + [FROZEN] * log.pictures
    once = [(CLEAN, 0), (CRITICS, 0)] if log.critics(size) else [(CLEAN, 0)]
    return [*once, *((bug, seed) for bug in bugs for seed in range(1 if "everywhere" in bug else size.seeds))]


def judged(log: Log, root: Path, size: Size) -> list[Cell]:
    """What was found, now or earlier by the same detectors."""
    paths, text = {}, detectors()
    for bug, seed in planting(log, size):
        made = key(log, text, size if bug == CRITICS else log.episodes(size))
        paths[bug, seed] = root / "cells" / f"{log.name}-{bug}-{seed}-{made}.json".replace(" ", "_")
    if missing := [what for what, path in paths.items() if not path.exists()]:
        episodes = read(log, root)
        clean = survey(episodes)
        for bug, seed in missing:
            models = bug == CRITICS
            found = of_models(log, root, size, episodes) if models else of_data(log.name, episodes, clean, bug, seed)
            write_atomic(paths[bug, seed], json.dumps(asdict(found)) + "\n")
    return [Cell(**json.loads(path.read_text(encoding="utf-8"))) for path in paths.values()]


def detectors() -> list[str]:
    """The text of everything that warns, and of what is planted."""
    library, here = Path(components.__file__).parent, Path(__file__).resolve().parent
    paths = [path for pattern in SOURCES for path in sorted(library.glob(pattern))]
    return [path.read_text(encoding="utf-8") for path in (*paths, here / "planted_bugs.py")]


def of_data(name: str, log: MemoryLog, clean: Survey, bug: str, seed: int) -> Cell:
    """The log as it is given to `robot-value replay`: warnings for which no model is asked."""
    if bug == CLEAN:
        return cell(name, bug, seed, warnings_of_data(log.spec, clean), log.names(), set())
    rng = np.random.default_rng([seed, len(bug)])
    made = (BUGS | {FROZEN: frozen_camera})[bug](log, rng)
    spoiled, planted = plant(log, made, rng)
    found = warnings_of_data(log.spec, again(clean, spoiled, planted))
    return cell(name, bug, seed, found, log.names(), planted, made.what)


def again(clean: Survey, spoiled: MemoryLog, planted: set[str]) -> Survey:
    """The survey of the spoiled log: what was not spoiled looks as it did."""
    new = survey(spoiled, sorted(planted))
    traces = {each.name: each for each in (*clean.traces, *new.traces)}
    measures = {each.name: each for each in (*clean.measures, *new.measures)}
    frames = {(each.name, each.camera): each for each in (*clean.frames, *new.frames)}
    return Survey(*(tuple(each.values()) for each in (traces, measures, frames)))


def of_models(log: Log, root: Path, size: Size, episodes: MemoryLog) -> Cell:
    """The clean log, replayed with critics of the right and of shuffled rewards; they were trained on it."""
    folder = log.folder(root)
    critics = {which: load_model(last(folder / which)) for which in log.critics(size)}
    first, *others = critics
    selector = components.load("selectors", "softmax_average").Config(temperature=0.5).build()
    steerer = Steerer(load_policy(last(folder / "policy")), critic=critics[first], selector=selector, n=1)
    robot = LoggedRobot(episodes, batch_size=50)
    replayed = replay(robot, steerer, {which: critics[which] for which in others}, critics[first].gamma, progress=False)
    robot.close()
    found = [*warnings(replayed, episodes), *of_critics(replayed).findings]
    named = {finding.what.split()[1] for finding in found if finding.what.startswith("critic ")}
    wrong = {which for which in critics if which.startswith("shuffled")}  # the first, which steers, is called "main"
    return Cell(log.name, CRITICS, 0, len(episodes.names()), *counts(sorted(named), wrong), sorted(named - wrong))


def read(log: Log, root: Path) -> MemoryLog:
    with EpisodeStore.open(log.folder(root) / "episodes") as store:
        return MemoryLog(store.spec, {name: store.read(name, decisions=False) for name in store.names()})


def cell(
    log: str, bug: str, seed: int, found: list[Finding], names: Sequence[str], planted: set[str], what: str = ""
) -> Cell:
    right = [finding for finding in found if what and what in finding.what]
    named = [name for finding in right for name in finding.episodes]
    if bug.endswith("everywhere"):  # one warning, without episodes, about the log
        named, planted = [log for finding in right if not finding.episodes], {log}
    others = [f"{finding.what} ({len(finding.episodes)} named)" for finding in found if finding not in right]
    return Cell(log, bug, seed, len(names), *counts(named, planted), others)


def summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Per log and bug: precision and recall with Wilson intervals; of a clean log the warnings per 100 episodes."""
    held_out, rows = {log.name: log.held_out for log in LOGS}, []
    for log, bug in dict.fromkeys((c.log, c.bug) for c in cells):
        mine = [c for c in cells if (c.log, c.bug) == (log, bug)]
        found, false, missed = (sum(getattr(c, name) for c in mine) for name in ("found", "false", "missed"))
        row = {"log": log, "held_out": held_out[log], "bug": bug, "logs": len(mine), "episodes": mine[0].episodes}
        if bug == CLEAN:
            row["per_100"] = 100 * len(mine[0].others) / mine[0].episodes
            row["passed"] = row["per_100"] <= PER_HUNDRED
        else:
            row |= {"precision": rate(found, found + false), "recall": rate(found, found + missed)}
            row["passed"] = found >= ASKED * (found + false) and found >= ASKED * (found + missed)
        others = {name for c in mine for name in c.others} if bug in (CLEAN, CRITICS) else ()
        rows.append(row | {"others_per_log": sum(len(c.others) for c in mine) / len(mine), "others": sorted(others)})
    return rows


def rate(successes: int, n: int) -> dict[str, Any] | None:
    """None where there was nothing to count."""
    interval = wilson(successes, n) if n else None
    return interval and {"mean": interval.mean, "ci95": interval.ci95, "n": n}


def table(rows: Sequence[dict[str, Any]]) -> str:
    def shown(row: dict[str, Any], name: str) -> str:
        value = row.get(name)
        return (
            "-".rjust(18) if value is None else f"{value['mean']:6.2f} [{value['ci95'][0]:.2f}, {value['ci95'][1]:.2f}]"
        )

    lines = [f"{'log':<18} {'bug':<17} {'precision':>18} {'recall':>18} {'others':>7}"]
    lines += [
        f"{r['log']:<18} {r['bug']:<17} {shown(r, 'precision')} {shown(r, 'recall')} {r['others_per_log']:7.2f}"
        f"{'  held out' if r['held_out'] else ''}{'' if r['passed'] else '  MISSED'}"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
