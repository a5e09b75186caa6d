"""A result of `bench_ogbench` as Markdown: algorithm x task beside published figures, then what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]


def ogbench(found: Result) -> list[str]:
    tasks = [str(task) for task in found["tasks"]]
    head = ["algorithm", *(f"task {task}" for task in tasks), "mean", "minus bc", "failed", "s per cell"]
    lines = [_line(head), _line(["---"] * len(head)), *(_line(_cells(row, tasks, found)) for row in found["rows"])]
    for name, success in found["published"].items():
        lines.append(_line([f"*{name}, published*", *[""] * len(tasks), f"*{success:.2f}*", "", "", ""]))
    return [*lines, "", " ".join(_sentences(found)), "", *_failures(found)]


def measured(component: str, found: Result) -> list[str]:
    """What a component's own page says: its rows of the table, or that nobody measured it."""
    about = {a["name"]: [part["name"] for part in (a["critic"], a["policy"]) if part] for a in found["algorithms"]}
    rows = [row for row in found["rows"] if component in about[row["name"]]]
    if not rows:
        return ["Not measured on a public benchmark yet; the tests hold it to known values on small problems."]
    tasks = [str(task) for task in found["tasks"]]
    head = ["algorithm", *(f"task {task}" for task in tasks), "mean", "minus bc"]
    shown = [row for row in found["rows"] if row["name"] == "bc"] + rows
    lines = [_line(head), _line(["---"] * len(head)), *(_line(_cells(row, tasks, found)[:-2]) for row in shown)]
    where = f"`{found['family']}`, {found['protocol']['critic_steps']:,} critic steps"
    return [*lines, "", f"{where}; protocol, all algorithms and published figures: [results](../results/README.md)."]


def _cells(row: Result, tasks: list[str], found: Result) -> list[str]:
    mean, gap = row["mean"], row["minus_base"]
    runs = len(tasks) * len(found["training_seeds"])
    return [
        row["name"],
        *(_rate(row["tasks"].get(task)) for task in tasks),
        _rate(mean),
        f"{gap['mean']:+.2f} {_interval(gap, '+')}" if gap else "",
        f"{len(row['failed'])} of {runs}" if row["failed"] else "",
        f"{row['wall_seconds']:.0f}",
    ]


def _sentences(found: Result) -> list[str]:
    data, protocol = found["data"], found["protocol"]
    seeds, n = found["training_seeds"], protocol["test_episodes"]
    entered = ", ".join(str(task["entered"]) for task in data["per_task"])
    first, last = protocol["test_seed"], protocol["test_seed"] + n - 1
    kind = {"uniform": "random targets, as OGBench's own", "slots": "targets among the tasks' starts and goals"}
    sentences = [
        f"`{found['family']}`, {data['steps']:,} transitions of play ({kind[data['play']]}; the tasks' goals are "
        f"entered {entered} times), {len(seeds)} training seed{'s' * (len(seeds) > 1)}, {protocol['policy_steps']:,} "
        f"policy and {protocol['critic_steps']:,} critic steps, {n} episodes per cell (test seeds {first}-{last}; N "
        f"among {', '.join(map(str, protocol['candidates']))} on {protocol['validation_episodes']} validation seeds); "
        f"{sum(cell['cpu_seconds'] for cell in found['cells']) / 60:.0f} minutes of one core for all cells.",
        "Intervals of one task: Wilson; of means and differences: bootstrap over test seeds, not over training seeds.",
    ]
    if found["published"]:
        sentences.append("Published figures: 1M steps on OGBench's official 1M transitions; not comparable one to one.")
    return [*sentences, *_order(found), *_unfinished(found)]


def _order(found: Result) -> list[str]:
    order = found["order"]
    if order["agree"] is None:
        return []
    published = {ours: f"{name} {success:.2f}" for name, success, ours in found["published_order"]}
    there = " > ".join(published[name] for name in order["published"])
    here = " > ".join(f"{name} {order['mean'][name]:.2f}" for name in order["measured"])
    verdict = "the same order" if order["agree"] else "another order"
    return [f"Published order (harder, goal-conditioned domains): {there}; here: {here}: {verdict}."]


def _unfinished(found: Result) -> list[str]:
    return [f"{found['unfinished']} runs were not finished in time."] if found["unfinished"] else []


def _failures(found: Result) -> list[str]:
    failed = [(row["name"], each) for row in found["rows"] for each in row["failed"]]
    lines = [f"- {name}, task {c['task']}, seed {c['seed']}: {c['error']} ({c['where']})" for name, c in failed]
    return ["Failed runs:", "", *lines, ""] if lines else []


def _rate(rate: Result | None) -> str:
    return f"{rate['success']:.2f} {_interval(rate)}" if rate else "--"


def _interval(found: Result, sign: str = "") -> str:
    low, high = (f"{limit:{sign}.2f}" for limit in found["ci95"])
    return f"[{low}, {high}]"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
