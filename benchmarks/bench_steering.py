"""Every way to use a critic on one frozen policy, against the oracle; and a gate that must do no harm.

python benchmarks/bench_steering.py                       # 4 tasks x 2 policies, 3 critics each; about 90 minutes
python benchmarks/bench_steering.py --tasks lift --budget-minutes 20    # what is done is not done again

The protocol is `steering_study_protocol.py`. Interrupt it and run it again. Writes outputs/bench/steering.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # worker processes get it from here

import steering_study_summary as summary
from steering_study_cells import PARTS, Cell, run_part
from steering_study_models import Made, jobs, make_data, train
from steering_study_protocol import CRITICS, POLICIES, TASKS, Protocol, Task

from robot_value.components import unknown
from robot_value.provenance import provenance
from robot_value.results import plain, write_results
from robot_value.training import load_model
from robot_value.workers import process_pool, run_all


def main() -> int:
    arguments, started = parse(), time.monotonic()
    deadline, protocol = time.time() + 60 * arguments.budget_minutes, arguments.protocol
    made = [Made(t, protocol, s, Path(arguments.out)) for s in range(protocol.training_seeds) for t in arguments.tasks]
    data = {f"{m.task.name} {m.seed}": make_data(m, arguments.workers) for m in made}
    cells = {(m.task.name, policy, m.seed): Cell(m, policy) for m in made for policy in POLICIES}
    with process_pool(arguments.workers) as pool:
        training = {(m.root, name): (train, (job,)) for m in made for name, job in jobs(m).items()}
        run_all(pool, training, "models")
        for part in PARTS:
            run_all(pool, {k: (run_part, (cell, part, deadline)) for k, cell in cells.items()}, part)
    report = {
        "format_version": 1,
        **provenance(started),
        "protocol": asdict(protocol),
        "tasks": [asdict(task) for task in arguments.tasks],
        "data_success": data,
        **summarise(cells, arguments.tasks, protocol),
    }
    write_results(Path(arguments.json), plain(report))
    print(text(report))
    print(arguments.json)
    return 0


def summarise(cells: Mapping[Any, Cell], tasks: Sequence[Task], protocol: Protocol) -> dict[str, Any]:
    """`rows` in the shape of results.json, one per pair that was tested; a pair says which of its parts are missing."""
    rows, unfinished, harm, trials, designed = [], [], [], {}, []
    for task in tasks:
        for policy in POLICIES:
            pair = f"{task.name} {policy}"
            mine = [cells[task.name, policy, seed] for seed in range(protocol.training_seeds)]
            parts = {part: [cell.read(part) for cell in mine] for part in PARTS}
            whole = {part: found for part, found in parts.items() if None not in found}
            missing = [part for part in PARTS if part not in whole]
            if "test" in whole:
                rows.append(row(pair, task, mine, whole, protocol) | {"missing": missing})
                tests = summary.with_ungated(whole["test"], parts["ungated"])
                harm += [summary.no_harm(pair, critic, whole["gates"], tests) for critic in CRITICS]
            else:
                unfinished.append(pair)
            if "headroom" in whole:
                trials[pair] = whole["headroom"]
            designed += [pair] * task.designed_on
    harm = summary.corrected(harm)
    return {
        "rows": rows,
        "unfinished": unfinished,
        "do_no_harm": {
            "margin": summary.MARGIN,
            "correction": "Holm",
            "rows": harm,
            "all_noninferior": bool(harm) and all(each["noninferior"] for each in harm),
        },
        "recovered": summary.recovered(trials, designed, protocol.n),
    }


def row(pair: str, task: Task, mine: Sequence[Cell], whole: Mapping[str, Any], protocol: Protocol) -> dict[str, Any]:
    recipe = {"selector": protocol.selector, "n": protocol.n, "options": {"temperature": protocol.temperature}}
    found: dict[str, Any] = {
        "pair": pair,
        "task": f"{task.robot.name}/{task.robot.values['task']}",
        "policy": ", ".join(version(cell.made.model(cell.policy)) for cell in mine),
        "critic": ", ".join(version(cell.made.model("main")) for cell in mine),
        "designed_on": task.designed_on,
        "seeds": {
            "training": list(range(protocol.training_seeds)),
            "validation": [protocol.validation[0], protocol.validation[-1]],
            "test": [protocol.test[0], protocol.test[-1]],
        },
        "recipe": {**recipe, "chosen_on": "validation seeds of Lift, in an earlier study"},
        "never_is_base": all(part["never_is_base"] for part in whole["test"]),
        **summary.gated(whole["test"]),
        "headroom": None,
        "latency_ms": {},
    }
    if "table" in whole:
        found["arms"] = summary.selectors(whole["table"]) | found["arms"]
    if "counts" in whole:
        found["success_by_n"] = summary.by_n(whole["counts"])
    if "headroom" in whole:
        about = {"rollouts": protocol.headroom_rollouts, "points": len(protocol.headroom_points)}
        both = summary.headroom(whole["headroom"], protocol.n, about)
        found["headroom"], found["headroom_rows"] = both["steered"], list(both.values())
    if "latency" in whole:
        found["latency_ms"] = whole["latency"][0]["ms"]
    return found


def version(folder: Path) -> str:
    return load_model(folder).version


def text(report: Mapping[str, Any]) -> str:
    lines = [
        f"{each['pair']:<26} critic {each['critic']:<9} base {each['base']['success']:.3f}  ungated "
        f"{signed(each['ungated']) if each['ungated'] else 'not played'}  gated {signed(each['gated'])}  "
        f"abstained {each['gated']['abstained']:.2f}  {'no harm' if each['noninferior'] else 'NOT SHOWN'} "
        f"(p {each['p_holm']:.4f})"
        for each in report["do_no_harm"]["rows"]
    ]
    for each in report["rows"]:
        arms = "  ".join(f"{name} {arm['success']:.2f}" for name, arm in each.get("arms", {}).items())
        lines.append(f"{each['pair']:<26} {arms}")
    return "\n".join([*lines, f"headroom recovered: {report['recovered']}"])


def signed(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:+.3f} [{found['ci95'][0]:+.3f}, {found['ci95'][1]:+.3f}]"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tasks", nargs="*", default=[task.name for task in TASKS], help="names of the protocol's tasks"
    )
    parser.add_argument(
        "--training-seeds", type=int, default=Protocol.training_seeds, help="data, policies and critics"
    )
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no part after this long")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", default="outputs/steering", help="folder for data, models and cells")
    parser.add_argument("--json", default="outputs/bench/steering.json", help="where the result goes")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, no meaning")
    arguments = parser.parse_args()
    by_name = {task.name: task for task in TASKS}
    for name in arguments.tasks:
        if name not in by_name:
            raise SystemExit(unknown("task", name, list(by_name)))
    arguments.tasks = [by_name[name] for name in arguments.tasks]
    arguments.protocol = Protocol(training_seeds=arguments.training_seeds)
    return quick(arguments) if arguments.quick else arguments


def quick(arguments: argparse.Namespace) -> argparse.Namespace:
    tiny = {
        "validation_episodes": 4,
        "shadow_episodes": 2,
        "test_episodes": 4,
        "table_episodes": 2,
        "count_episodes": 2,
        "batch": 4,
    }
    few = {"n": 4, "counts": (1, 4), "headroom_episodes": 1, "headroom_points": (0,), "headroom_rollouts": 2}
    arguments.protocol = replace(arguments.protocol, training_seeds=1, scale=0.01, **tiny, **few)
    arguments.tasks = arguments.tasks[:1]
    arguments.out, arguments.json = f"{arguments.out}_quick", "outputs/bench/steering_quick.json"
    return arguments


if __name__ == "__main__":
    sys.exit(main())
