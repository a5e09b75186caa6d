"""report.html: one self-contained page that a person looks at, and results.json beside it.

Everything the page says is computed from results.json; pictures, learning curves and the story of the data come along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from . import report_html as html
from . import report_plots as plots
from . import report_text as text
from . import report_video as video
from .results import plain, write_atomic, write_results

COLUMNS = (
    ("arm", ""),
    ("success", "number"),
    ("0 to 100\u00a0%, with interval", "rate"),
    ("difference", "number"),
    ("95\u00a0% interval", "number optional"),
    ("p", "number optional"),
    ("n", "number optional"),
)
Panels = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]  # title -> line -> [[step, value], ...]


@dataclass(frozen=True)
class Extras:
    """What a page shows beside the figures."""

    title: str = "robot_value report"
    data: str = ""  # how the data were made, in plain words
    notes: Sequence[str] = ()  # further sentences under the headline
    videos: Sequence[video.Pair] = ()
    timelines: str = ""  # address of the page with every decision of some test episodes, relative to this one
    curves: Panels = field(default_factory=dict)
    commands: Sequence[str] = ()  # further command lines that lead to these figures


def write_report(folder: Path, results: Mapping[str, Any], extras: Extras | None = None) -> Path:
    """Write results.json and report.html into `folder`; returns the page. Refuses results of the wrong shape."""
    folder, results, extras = Path(folder), plain(results), extras or Extras()
    write_results(folder / "results.json", results)
    return write_atomic(folder / "report.html", render(results, extras))


def render(results: Mapping[str, Any], extras: Extras) -> str:
    """The page as text."""
    body = [
        f"<h1>{escape(extras.title)}</h1>",
        html.paragraph(text.headline(results), "headline"),
        *map(html.paragraph, [*text.against_controls(results), *extras.notes]),
        html.paragraph(text.setting(results), "soft"),
        _warnings(results),
        html.section("Every arm on the same seeds", _table(results)),
        html.section("Plain policy and steered policy, same seed", _videos(extras.videos)),
        html.section("Every decision of some episodes", _timelines(extras.timelines) if extras.timelines else ""),
        html.section("More candidates", _by_n(results)),
        html.section("What any choice could have gained", *_headroom(results)),
        html.section("Does the critic's number mean anything?", *_calibration(results)),
        html.section("Cost per decision", *_latency(results)),
        html.section("Learning curves", html.figure(plots.curves(extras.curves)) if extras.curves else ""),
        html.section("How the data were made", html.paragraph(extras.data) if extras.data else ""),
        html.section("How to get these figures again", _provenance(results, extras)),
    ]
    return html.page(extras.title, body)


def read_curves(runs: Mapping[str, Path]) -> Panels:
    """Learning curves of training runs: {"policy": folder, ...} -> panels "policy: loss" with train and validation."""
    panels: dict[str, dict[str, list[list[float]]]] = {}
    for run, folder in runs.items():
        for split, columns in json.loads((Path(folder) / "curves.json").read_text(encoding="utf-8")).items():
            for metric, values in columns.items():
                if metric != "step":
                    line = [list(point) for point in zip(columns["step"], values, strict=True)]
                    panels.setdefault(f"{run}: {metric}", {})[split] = line
    return panels


def _warnings(results: Mapping[str, Any]) -> str:
    lines = "".join(html.paragraph(line) for line in text.warnings(results))
    return f'<div class="warnings">{lines}</div>' if lines else ""


def _table(results: Mapping[str, Any]) -> str:
    against = results["difference"]["against"]
    differences = {d["arm"]: d for d in results.get("differences", ()) if d["against"] == against}
    differences.setdefault(results["difference"]["arm"], results["difference"])
    reference, chosen = results["arms"][against]["success"], results["recipe"].get("arm", results["difference"]["arm"])
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in COLUMNS)
    rows = [
        _row(name, arm, differences.get(name) if name != against else None, reference, name == chosen)
        for name, arm in results["arms"].items()
    ]
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        + html.paragraph(
            "Shaded: the recipe. Dashed: the plain policy. Success with Wilson's interval; difference to the plain "
            "policy in points, paired on seeds, bootstrap interval over environment seeds; p: exact McNemar.",
            "soft",
        )
        + _training_seeds(results)
    )


def _row(name: str, arm: Mapping[str, Any], against: Mapping[str, Any] | None, reference: float, chosen: bool) -> str:
    bar = html.whisker(arm["success"], *arm["ci95"], reference, chosen)
    cells = ("–", "", "")
    if against is not None:
        interval = " to ".join(text.points(end) for end in against["ci95"])
        cells = (text.points(against["mean"]), interval, escape(text.p_value(against["p_mcnemar"])))
    return (
        f"<tr{' class=chosen' if chosen else ''}><td>{escape(text.words(name))}"
        f"<small>{escape(text.describe(name, arm))}</small></td>"
        f'<td class="number">{text.percent(arm["success"])}</td><td class="rate">{bar}</td>'
        f'<td class="number">{cells[0]}</td><td class="number optional">{cells[1]}</td>'
        f'<td class="number optional">{cells[2]}</td><td class="number optional">{arm["n"]}</td></tr>'
    )


def _training_seeds(results: Mapping[str, Any]) -> str:
    """Differences are pooled; this says how far the training seeds lie apart."""
    difference = results["difference"]
    if "per_training_seed" not in difference:
        return ""
    each = ", ".join(text.points(mean) for mean in difference["per_training_seed"])
    low, high = (text.points(end) for end in difference["ci95_training_seeds"])
    return html.paragraph(
        f"{text.words(difference['arm'])} minus {text.words(difference['against'])} per training seed: {each} points. "
        f"Resampling training seeds as well gives {low} to {high}; with this few of them it is a rough guide.",
        "soft",
    )


def _timelines(address: str) -> str:
    link = f'<a href="{escape(address)}">Timelines of the first test seeds</a>'
    return f"<p>{link}: candidates, scores, what was chosen and why, step by step.</p>"


def _videos(pairs: Sequence[video.Pair]) -> str:
    figures = []
    for pair in pairs:
        sides = "".join(
            f'<div>{escape(side.label)}: <span class="{"good" if side.success else "bad"}">'
            f"{'success' if side.success else 'failure'}</span></div>"
            for side in (pair.left, pair.right)
        )
        figures.append(html.figure(f'<div class="sides">{sides}</div>{video.element(pair)}', f"seed {pair.seed}"))
    return f'<div class="pair">{"".join(figures)}</div>' if figures else ""


def _by_n(results: Mapping[str, Any]) -> str:
    curves = results.get("success_by_n") or {}
    if not any(len(points) > 1 for points in curves.values()):
        return ""
    plot = plots.success_by_n(curves, (curves.get("base") or [None])[0])
    return html.figure(
        plot, "Success on the validation seeds, 95 % Wilson band. Choices were made here, not on test seeds."
    )


def _headroom(results: Mapping[str, Any]) -> list[str]:
    rows = results.get("headroom_rows") or ([results["headroom"]] if results["headroom"] else [])
    if not rows:
        return []
    return [
        html.figure(plots.headroom(rows)),
        *(html.paragraph(text.headroom(row)) for row in rows),
        html.paragraph(text.oracle(rows[0]), "soft"),
    ]


def _calibration(results: Mapping[str, Any]) -> list[str]:
    recipe = results["recipe"]
    found = {
        name: figures
        for name, figures in (results.get("calibration") or {}).items()
        if results["arms"][name].get("critic") == recipe.get("critic") and results["arms"][name]["selector"] != "argmin"
    }
    if not found:
        return []
    caption = "Value of the executed candidate against what followed under that arm; an honest value lies on the line."
    return [
        html.figure(plots.calibration(found), caption, "narrow"),
        *(html.paragraph(text.calibration(*item), "soft") for item in found.items()),
    ]


def _latency(results: Mapping[str, Any]) -> list[str]:
    if not results["latency_ms"]:
        return []
    batch = results.get("latency_batch", 1)
    rows = results.get("latency_by_arm") or {results["difference"]["arm"]: results["latency_ms"]}
    shown = [results["difference"]["against"], "mean", "argmax", results["difference"]["arm"]]
    rows = {name: rows[name] for name in dict.fromkeys(shown) if name in rows}
    robots = "one robot" if batch == 1 else f"a batch of {batch} robots together"
    return [html.figure(plots.latency(rows), f"Median milliseconds for {robots} on the machine below.")]


def _provenance(results: Mapping[str, Any], extras: Extras) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items() if value is not None)
    pairs = [
        ("command", results["command"]),
        *(("command", line) for line in extras.commands),
        ("commit", results["git"] or "not a checkout"),
        ("policy", results["policy"]),
        ("critic", results["critic"] or "none"),
        ("recipe", json.dumps(results["recipe"], ensure_ascii=False)),
        ("machine", machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["versions"].items())),
        ("wall time", f"{results['wall_seconds']:.0f} s"),
    ]
    return html.definitions(pairs)
