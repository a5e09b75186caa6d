"""Is a policy's value as a log tells it the one that is seen when it is played? 14 policies on Lift, 3 logs.

python benchmarks/bench_ope.py             # about 12 minutes on two cores; models of bench_steering are used if there
python benchmarks/bench_ope.py --quick     # a smoke test: tiny sizes, no meaning

Prints and writes Spearman's rank correlation of estimated with rolled-out success (interval over policies), how often
95 % intervals hold the rolled-out rate over policies x logs, and coverage on toys of known value. What was done is not
done again. Asked for: Spearman >= 0.8, coverage >= 0.9; a shortfall is said with the figures that explain it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent))  # worker processes get it from here

import steering_study_protocol as study
from ope_coverage import TOYS, coverage
from ope_policies import Cell, Protocol, described, policies, run, training_jobs
from steering_study_models import Made, make_data, train

from robot_value.collect import collect
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.statistics import wilson
from robot_value.workers import process_pool, run_all

SPEARMAN, COVERAGE = 0.8, 0.9  # asked for


def main(argv: Sequence[str] | None = None) -> int:
    arguments, started = parse(argv), time.monotonic()
    made, p = Made(study.TASKS[0], arguments.study, 0, Path(arguments.models)), arguments.protocol
    make_data(made, arguments.workers)
    log = Path(arguments.out) / f"log-{study.key(made.task, p.log_seed)}"
    if collect(
        *(made.task.robot_config(), log, p.logs * p.log_episodes, p.log_seed),
        workers=arguments.workers,
        batch_size=min(p.batch, p.logs * p.log_episodes),
    ).interrupted:
        raise KeyboardInterrupt
    cells = {name: (run, (Cell(made, p, log, Path(arguments.out), name),)) for name in policies(p.n)}
    with process_pool(arguments.workers) as pool:
        run_all(pool, {name: (train, (job,)) for name, job in training_jobs(made).items()}, "models")
        rows = list(run_all(pool, cells, "policies").values())
        toys = run_all(
            pool, {name: (coverage, (name, arguments.toy_logs, arguments.fitted_logs)) for name in TOYS}, "toys"
        )
    report = {
        "format_version": 1,
        **provenance(started),
        "task": "robosuite/Lift",
        "seeds": {
            "logs": [p.log_seed, p.log_seed + p.logs * p.log_episodes - 1],
            "test": [p.truth_seed, p.truth_seed + p.truth_episodes - 1],
        },
        "protocol": asdict(p),
        "policies": described(p.n),
        **summarise(rows),
        "toys": toys,
    }
    report["shortfall"] = shortfall(report)
    write_atomic(Path(arguments.json), json.dumps(plain(report), indent=1, allow_nan=False) + "\n")
    print(text(report))
    print(arguments.json)
    return 0


def summarise(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row per policy and log; correlation per log, coverage over all rows."""
    rows = [row(cell, i) for cell in cells for i in range(len(cell["estimates"]))]
    logs = sorted({each["log"] for each in rows})
    truth = np.array([cell["truth"]["successes"] / cell["truth"]["n"] for cell in cells])
    value = np.array([[cell["estimates"][i]["estimates"][0]["value"] for cell in cells] for i in logs])  # [logs, P]
    held, allowing = (wilson(sum(each[name] for each in rows), len(rows)) for name in ("held", "held_allowing"))
    supported = [each for each in rows if not each["missing"]]
    return {
        "spearman": correlation(value, truth),
        "coverage": {"mean": held.mean, "ci95": held.ci95, "n": len(rows)},
        "coverage_allowing_for_error_of_truth": {"mean": allowing.mean, "ci95": allowing.ci95, "n": len(rows)},
        "coverage_where_supported": {
            "mean": float(np.mean([each["held"] for each in supported])) if supported else None,
            "n": len(supported),
        },
        "mean_error": float((value - truth).mean()),
        "mean_absolute_error": float(np.abs(value - truth).mean()),
        "pull_to_log": pull(value, truth),
        "rows": rows,
    }


def row(cell: Mapping[str, Any], log: int) -> dict[str, Any]:
    found = cell["estimates"][log]
    (fitted,) = found["estimates"]
    true = wilson(cell["truth"]["successes"], cell["truth"]["n"])
    half = (true.high - true.low) / 2
    low, high = (
        fitted["value"] - np.hypot(fitted["value"] - fitted["low"], half),
        fitted["value"] + np.hypot(fitted["high"] - fitted["value"], half),
    )
    return {
        "policy": cell["name"],
        "log": log,
        "truth": true.mean,
        "truth_ci95": true.ci95,
        "n": cell["truth"]["n"],
        "estimate": fitted["value"],
        "ci95": [fitted["low"], fitted["high"]],
        "held": fitted["low"] <= true.mean <= fitted["high"],
        "held_allowing": bool(low <= true.mean <= high),
        "support": found["support"]["share"],
        "missing": found["support"]["missing"],
        "log_success": found["log_success"],
    }


def correlation(value: np.ndarray, truth: np.ndarray, resamples: int = 2000) -> dict[str, Any]:
    """value [logs, P], truth [P]: the mean over logs, percentile interval over resampled policies."""
    each, n = spearman(value, truth), len(truth)  # [logs]
    rows = np.random.default_rng(0).integers(0, n, (resamples, n))
    drawn = spearman(value[:, rows], truth[rows]).mean(0)  # [resamples], NaN where a draw is constant
    known = drawn[np.isfinite(drawn)]
    ci95 = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else [float("nan")] * 2
    return {"mean": float(each.mean()), "ci95": ci95, "policies": n, "per_log": each.tolist()}


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis, ties sharing their rank; NaN where one side is constant."""
    x, y = (stats.rankdata(each, axis=-1) - (each.shape[-1] + 1) / 2 for each in (x, y))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


# estimate = a + b * truth: b < 1 says that estimates are drawn together
def pull(value: np.ndarray, truth: np.ndarray) -> float:
    """b of the least-squares line through value [logs, P] against truth [P]; NaN where all are equally good."""
    centred = truth - truth.mean()
    return float((value.mean(0) * centred).sum() / (centred**2).sum()) if centred.any() else float("nan")


def shortfall(report: Mapping[str, Any]) -> str:
    """ "" where both were reached; else what was missed, with the figures that say why."""
    ranks, held = report["spearman"]["mean"], report["coverage"]["mean"]
    missed = [f"Spearman {ranks:.2f} < {SPEARMAN}"] if not ranks >= SPEARMAN else []
    missed += [f"coverage {held:.2f} < {COVERAGE}"] if held < COVERAGE else []
    if not missed:
        return ""
    missing = np.mean([each["missing"] for each in report["rows"]])
    return (
        f"{' and '.join(missed)}: estimates are off by {report['mean_absolute_error']:.2f} on average (signed "
        f"{report['mean_error']:+.2f}) and follow the truth with slope {report['pull_to_log']:.2f}, below 1 drawn "
        f"towards the log; support is missing in {100 * missing:.0f} % of the rows. Intervals are bootstrap "
        "draws of a fit to this log: they say how a like log would have differed, and nothing about what no log shows."
    )


def text(report: Mapping[str, Any]) -> str:
    lines = [
        f"{each['policy']:<16} log {each['log']}  truth {each['truth']:.2f}  estimate {each['estimate']:.2f} "
        f"[{each['ci95'][0]:.2f}, {each['ci95'][1]:.2f}] {'held' if each['held'] else 'MISSED'}  support "
        f"{each['support']:.2f}{' MISSING' if each['missing'] else ''}"
        for each in report["rows"]
    ]
    for name, methods in report["toys"].items():
        each = "  ".join(f"{method} {found['coverage']:.2f} ({found['logs']})" for method, found in methods.items())
        lines.append(f"{name}: coverage {each}")
    ranks, held = report["spearman"], report["coverage"]
    lines += [
        f"Spearman {ranks['mean']:.2f} [{ranks['ci95'][0]:.2f}, {ranks['ci95'][1]:.2f}], {ranks['policies']} policies",
        f"coverage {held['mean']:.2f} [{held['ci95'][0]:.2f}, {held['ci95'][1]:.2f}], {held['n']} policies x logs",
    ]
    return "\n".join([*lines, report["shortfall"] or "both were reached"])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--models", default="outputs/steering", help="bench_steering's folder of data and models")
    parser.add_argument("--out", default="outputs/ope", help="folder for logs and cells")
    parser.add_argument("--json", default="outputs/bench/ope.json", help="where the result goes")
    parser.add_argument("--toy-logs", type=int, default=200, help="logs per toy")
    parser.add_argument("--fitted-logs", type=int, default=40, help="logs per toy that fitted Q is run on")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, no meaning")
    arguments = parser.parse_args(argv)
    arguments.study, arguments.protocol = study.Protocol(), Protocol()
    return quick(arguments) if arguments.quick else arguments


def quick(arguments: argparse.Namespace) -> argparse.Namespace:
    tiny = {"logs": 2, "log_episodes": 6, "truth_episodes": 4, "batch": 4, "every": 8, "n": 2}
    arguments.study = replace(arguments.study, scale=0.01)
    arguments.protocol = replace(arguments.protocol, **tiny, fqe=replace(arguments.protocol.fqe, members=2, steps=5))
    arguments.models, arguments.out = f"{arguments.models}_quick", f"{arguments.out}_quick"
    arguments.json, arguments.toy_logs, arguments.fitted_logs = "outputs/bench/ope_quick.json", 4, 1
    return arguments


if __name__ == "__main__":
    sys.exit(main())
