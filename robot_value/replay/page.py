"""report.html about a log: opens by double click, asks nothing of a network, and loads an episode when it is looked at.

`index` (a few numbers per episode) is in the page; timelines are scripts beside it, see `shards`. Names and texts of a
log are not trusted: they are JSON in the page and text nodes on the screen, and a Content-Security-Policy lets only
this page's own script and the shards run.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import report_html as html
from ..episodes.durable import replace_file
from .report import Report, Section, detour, headline
from .shards import Pictures, script_json, shard, shard_name, short

SCRIPTS = ("read.js", "draw.js", "timeline.js", "table.js", "main.js")  # in the order they are read


def write_page(folder: Path, report: Report, pictures: Pictures | None = None, progress: bool = False) -> Path:
    """report.html and data/ in `folder`; returns the page. Shards of an earlier page are removed."""
    folder, pictures = Path(folder), pictures or Pictures()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for old in (folder / "data").glob("episode_*.js"):
        old.unlink()
    for number in tqdm(range(len(report.replayed.episodes)), "timelines", disable=not progress):
        (folder / shard_name(number)).write_text(shard(report, number, pictures), encoding="utf-8")
    replace_file(folder / "report.html", render(report).encode())  # last: a page that is there is whole
    return folder / "report.html"


def render(report: Report) -> str:
    """The page as text."""
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();"
    body = [
        f"<style>{_asset('page.css')}</style>",
        f"<h1>{escape(report.title)}</h1>",
        html.paragraph(report.headline or headline(report.replayed), "headline"),
        *(html.paragraph(line) for line in report.lines),
        _asset("body.html"),
        *(_section(section) for section in report.sections),
        html.section("How this page was made", _made(report)),
        f'<script type="application/json" id="index">{script_json(index(report))}</script>',
        f"<script>{script}</script>",
    ]
    page = html.page(report.title, body)
    return page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{_policy(script)}', 1)


def index(report: Report) -> dict[str, Any]:
    """What the table and the warnings show; columns have one entry per episode."""
    replayed = report.replayed
    episodes, main = replayed.episodes, replayed.main
    tasks = list(dict.fromkeys(e.task for e in episodes))
    number_of = {e.name: i for i, e in enumerate(episodes)}
    warnings = defaultdict(list)
    for i, finding in enumerate(report.findings):
        for name in finding.episodes:
            warnings[name].append(i)
    value = replayed.opinions[main].logged_value if main else np.full(len(replayed), np.nan)
    columns = {
        "name": [e.name for e in episodes],
        "task": [tasks.index(e.task) for e in episodes],
        "steps": [e.steps for e in episodes],
        "success": [None if e.success is None else int(e.success) for e in episodes],
        "value": _per_episode(replayed.episode, value, len(episodes), np.fmin),
        "detour": _per_episode(replayed.episode, detour(replayed), len(episodes), np.fmax),
        "alarm": report.alarms(main).tolist() if main else [-1] * len(episodes),
        "warnings": [warnings[e.name] for e in episodes],
    }
    spec = replayed.spec
    return {
        "columns": columns,
        "tasks": tasks,
        "findings": [
            {"what": f.what, "advice": f.advice, "episodes": [number_of[n] for n in f.episodes if n in number_of]}
            for f in report.findings
        ],
        "marks": [[m.episode, m.step, m.what] for m in report.marks],
        "critics": list(replayed.opinions),
        "dt": spec.dt,
        "execute": replayed.execute,
        "states": [list(pair) for pair in zip(spec.state_names, spec.state_units, strict=True)],
        "actions": [
            [p.name if p.stop - p.start == 1 else f"{p.name}[{d}]", p.unit if "+" not in p.unit else ""]
            for p in spec.parts
            for d in range(p.stop - p.start)
        ],
    }


def _per_episode(episode: np.ndarray, values: np.ndarray, episodes: int, extreme: np.ufunc) -> list[float | None]:
    """Smallest or largest of each episode's decisions; None where there is none."""
    found = np.full(episodes, np.nan)
    extreme.at(found, episode, values)
    return short(found)


def _section(section: Section) -> str:
    figures = [html.figure(f"<h3>{escape(title)}</h3>{svg}", caption) for title, svg, caption in section.figures]
    pairs = f'<div class="pair">{"".join(figures)}</div>' if figures else ""
    return html.section(section.title, *(html.paragraph(line) for line in section.lines), pairs)


def _made(report: Report) -> str:
    replayed = report.replayed
    pairs: Sequence[tuple[str, str]] = [
        ("command", report.command),
        ("log", f"{len(replayed.episodes)} episodes, {len(replayed)} decisions"),
        ("critics", ", ".join(replayed.opinions)),
        ("equal to the logged decisions", _compared(report)),
    ]
    return html.definitions([(term, value) for term, value in pairs if value])


def _compared(report: Report) -> str:
    compared, unequal = report.replayed.compared, report.replayed.unequal
    first = f"; first difference: {unequal[0]}" if unequal else ""
    return f"{compared - len(unequal)} of {compared}{first}" if compared else ""


def _policy(script: str) -> str:
    """Nothing is loaded but the shards: "file:" where the page was double-clicked, 'self' where a server shows it."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}' 'self' file:"
    return f"<meta http-equiv=\"Content-Security-Policy\" content=\"{rules}; base-uri 'none'; form-action 'none'\">"


def _asset(name: str) -> str:
    return (files(__package__) / "page_assets" / name).read_text(encoding="utf-8")
