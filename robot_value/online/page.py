"""report.html of an online run: did the robot get better, did it get worse on the way, and where did the time go?

Made from progress.json and curves.json alone, by report_html's skeleton: one file, nothing is fetched from anywhere.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from .. import report_html as html
from .. import report_plots as plots
from ..curves import FILE as CURVES
from ..provenance import provenance
from ..report import read_curves
from ..results import write_atomic
from ..statistics import wilson
from .books import PASSED, PLAIN, WORSE, Progress, Trial, overhead
from .page_plots import success, time_spent

COLUMNS = (
    ("version", ""),
    ("environment steps", "number"),
    ("gradient steps", "number optional"),
    ("solved", "number"),
    ("0 to 100\u00a0%, with interval", "rate"),
    ("evidence", "number optional"),
    ("verdict", ""),
)
LOSSES = ("loss", "grad_norm")  # names of curves that end so are shown


def write_page(root: Path, learn: str, started: float) -> Path:
    """`started` is `time.monotonic()` of the command's begin."""
    return write_atomic(root / "report.html", render(Progress.load(root), root, learn, provenance(started)))


def render(progress: Progress, root: Path, learn: str, made: dict[str, Any]) -> str:
    """The page as text."""
    title = f"robot_value train online, learning {'critic and policy' if learn == 'both' else learn}"
    episodes = sum(len(each.success) for each in progress.rounds)
    solved = sum(sum(each.success) for each in progress.rounds)
    body = [
        f"<h1>{escape(title)}</h1>",
        html.paragraph(headline(progress), "headline"),
        html.paragraph(dip(progress)) if dip(progress) else "",
        html.paragraph(
            f"{solved} of {episodes} episodes succeeded while it learned, in {len(progress.rounds)} rounds and "
            f"{progress.env_steps:,} environment steps{_human(progress)}.",
            "soft",
        ),
        _warnings(progress),
        html.section("Success against environment steps", *_success(progress)),
        html.section("Versions on trial", _table(progress)),
        html.section("Losses", _losses(root)),
        html.section("Where the time went", *_time(progress)),
        html.section("How to get these figures again", _provenance(made)),
    ]
    return html.page(title, body)


def headline(progress: Progress) -> str:
    start, last = _start(progress), progress.passed
    if start is None:
        return f"{len(progress.rounds)} rounds were played; no version was put on trial."
    if last is None:
        return "No version has passed its trial: the plain policy acted all along."
    if last.version == start.version:
        return f"The offline start solves {_count(start)} evaluation seeds; nothing learned since has passed a trial."
    return (
        f"The offline start solved {_count(start)} evaluation seeds; after {last.env_steps:,} environment steps "
        f"version {last.version} solves {_count(last)}."
    )


def dip(progress: Progress) -> str:
    """How far below the offline start it fell on the way, also where that was rolled back."""
    start, later = _start(progress), [trial for trial in progress.evaluations if trial.env_steps]
    if start is None or not later:
        return ""
    lowest = min(later, key=_rate)
    points = 100 * (_rate(start) - _rate(lowest))
    if points <= 0:
        return "No version on trial solved a smaller share than the offline start."
    return (
        f"The dip: version {lowest.version}, after {lowest.env_steps:,} steps, solved {_count(lowest)}, "
        f"{points:.0f} points below the offline start."
    )


def _start(progress: Progress) -> Trial | None:
    return next((trial for trial in progress.evaluations if trial.verdict != PLAIN), None)


def _rate(trial: Trial) -> float:
    return sum(trial.success) / len(trial.success)


def _count(trial: Trial) -> str:
    return f"{sum(trial.success)} of {len(trial.success)}"


def _human(progress: Progress) -> str:
    steps = sum(sum(each.human_steps) for each in progress.rounds)
    return f", {steps:,} of them a human's" if steps else ""


def _warnings(progress: Progress) -> str:
    lines = [f"Learning was given up. {progress.stopped}."] if progress.stopped else []
    if refused := progress.rounds[-1].refused if progress.rounds else 0:
        before = [0, *(each.refused for each in progress.rounds)]
        rounds = [each.round for each, so_far in zip(progress.rounds, before, strict=False) if each.refused > so_far]
        lines.append(f"{refused} gradient steps were refused, in round {', '.join(map(str, rounds))}.")
    lines += [_rolled_back(i, progress) for i, trial in enumerate(progress.evaluations) if trial.verdict == WORSE]
    return f'<div class="warnings">{"".join(map(html.paragraph, lines))}</div>' if lines else ""


def _rolled_back(i: int, progress: Progress) -> str:
    trial = progress.evaluations[i]
    good = next((each for each in reversed(progress.evaluations[:i]) if each.verdict == PASSED), None)
    then = f"learning went on from version {good.version}" if good else "the plain policy acted until one passed"
    return f"Version {trial.version} was shown to be worse than {_name(trial.against)}; {then}."


def _name(version: int | None) -> str:
    return "the plain policy" if version is None else f"version {version}"


def _success(progress: Progress) -> list[str]:
    if not progress.evaluations:
        return []
    caption = (
        "Evaluation seeds, the same for every version, with 95 % Wilson intervals; they are never learned from. Small "
        "dots: episodes of the rounds, with whatever acted and helped there. Shaded: below the offline start."
    )
    return [html.figure(success(progress), caption)]


def _table(progress: Progress) -> str:
    if not progress.evaluations:
        return ""
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in COLUMNS)
    start = _start(progress) or progress.evaluations[0]
    rows = "".join(_row(trial, _rate(start), trial is progress.passed) for trial in progress.evaluations)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        + html.paragraph(
            "Shaded: the last that passed. Dashed: the offline start. Evidence that it is worse than the last that was "
            "not, on paired seeds; 1 says nothing, and 1 / alpha (20 unless told) ends the trial.",
            "soft",
        )
    )


def _row(trial: Trial, start: float, newest: bool) -> str:
    rate = wilson(sum(trial.success), len(trial.success))
    bar = html.whisker(rate.mean, rate.low, rate.high, start, newest)
    kind = "bad" if trial.verdict == WORSE else "good" if trial.verdict == PASSED else "soft"
    verdict = {PASSED: "passed", WORSE: "rolled\u00a0back", PLAIN: "–"}[trial.verdict]
    after = f"<small>after round {trial.round}</small>" if trial.round else "<small>at the start</small>"
    evidence = "" if trial.evidence == 0 else f"{trial.evidence:.2g}"
    return (
        f"<tr{' class=chosen' if newest else ''}><td>{_name(trial.version)}{after}</td>"
        f'<td class="number">{trial.env_steps:,}</td><td class="number optional">{trial.update:,}</td>'
        f'<td class="number">{_count(trial)}</td><td class="rate">{bar}</td>'
        f'<td class="number optional">{evidence}</td><td><span class="{kind}">{verdict}</span></td></tr>'
    )


def _losses(root: Path) -> str:
    if not (root / CURVES).exists():
        return ""
    panels = {name.partition(": ")[2]: lines for name, lines in read_curves({"": root}).items()}
    shown = {name: {"": lines["train"]} for name, lines in panels.items() if name.endswith(LOSSES)}
    return html.figure(plots.curves(shown), "Means over a round.") if shown else ""


def _time(progress: Progress) -> list[str]:
    if not progress.rounds:
        return []
    return [html.figure(time_spent(progress)), html.paragraph(overhead(progress) + ".", "soft")]


def _provenance(made: dict[str, Any]) -> str:
    pairs = [
        ("command", made["command"]),
        ("commit", made["git"] or "not a checkout"),
        ("machine", ", ".join(f"{key} {value}" for key, value in made["machine"].items() if value is not None)),
        ("versions", ", ".join(f"{name} {version}" for name, version in made["versions"].items())),
    ]
    return html.definitions(pairs)
