"""Episodes as .rrd files for the Rerun viewer (extra "view"): what the live view shows, and what every critic says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..display.rerun_pen import Pen, sdk
from ..display.shown import Shown, action_names
from ..episodes.durable import replace_file
from .report import Report, detour


def write_rrd(folder: Path, report: Report, numbers: Sequence[int] | None = None) -> list[Path]:
    """One file per episode, all without `numbers`; older ones go. Raises ValueError with what to install."""
    rerun = sdk()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("episode_*.rrd"):
        old.unlink()
    numbers = range(len(report.replayed.episodes)) if numbers is None else numbers
    return [_write(rerun, folder / f"episode_{number:06d}.rrd", report, number) for number in numbers]


def worth_a_look(report: Report, count: int) -> list[int]:
    """Numbers of `count` episodes: those that most warnings name, among equals those with the largest detour."""
    index = {episode.name: number for number, episode in enumerate(report.replayed.episodes)}
    named = np.zeros(len(index))
    for finding in report.findings:
        for name in index.keys() & set(finding.episodes):
            named[index[name]] += 1
    away = np.zeros(len(index))
    np.maximum.at(away, report.replayed.episode, np.nan_to_num(detour(report.replayed)))
    return np.lexsort((-away, -named))[:count].tolist()


def decisions(report: Report, number: int) -> Iterator[Shown]:
    """What steering weighed and chose at every decision of an episode, as the steering critic saw it."""
    replayed, rows = report.replayed, report.replayed.rows(number)
    opinion = replayed.opinions.get(replayed.main)
    unscored = np.full(replayed.candidates.shape[1], np.nan, np.float32)
    for d in range(rows.start, rows.stop):
        step = int(replayed.step[d])
        yield Shown(
            robot=0,
            episode=number,
            step=step,
            time=step * replayed.spec.dt,
            images={},
            state=np.zeros(0, np.float32),
            candidates=replayed.candidates[d],
            value=unscored if opinion is None else opinion.value[d],
            spread=unscored if opinion is None else opinion.spread[d],
            chunk=replayed.chosen[d],
            index=int(replayed.index[d]),
            start_step=step,
            execute=replayed.execute,
            reason=str(replayed.reason[d]),
            executed=replayed.logged[d, : replayed.length[d]],
        )


def _write(rerun: Any, path: Path, report: Report, number: int) -> Path:
    replayed, facts = report.replayed, report.replayed.episodes[number]
    episode, rows, spec = report.log.read(facts.name), replayed.rows(number), replayed.spec
    stream = rerun.RecordingStream("robot_value", recording_id=facts.name, send_properties=False)
    written, pen = stream.binary_stream(), Pen(stream, spec)

    def columns(entity: str, steps: np.ndarray, values: np.ndarray, names: Sequence[str]) -> None:
        pen.name(entity, names)
        pen.columns(entity, steps, steps * spec.dt, values)

    every = np.arange(len(episode))
    columns("states", np.arange(len(episode.states)), episode.states, spec.state_names)
    columns("actions", every, episode.actions, action_names(spec))
    columns("rewards", every, episode.rewards[:, None], ["reward"])
    for critic, opinion in replayed.opinions.items():
        values = np.column_stack([opinion.logged_value[rows], opinion.chosen_value[rows], opinion.value[rows]])
        names = ["executed", "chosen", *(f"candidate {n}" for n in range(opinion.value.shape[1]))]
        columns(f"values/{critic}", replayed.step[rows], values, names)
    for shown in decisions(report, number):
        pen.decided(shown)
    stream.reset_time()
    for camera, pixels in episode.images.items():
        for step, picture in enumerate(pixels):
            stream.set_time("step", sequence=step)
            stream.set_time("time", duration=step * spec.dt)
            stream.log(f"cameras/{camera}", rerun.Image(picture).compress())
    replace_file(path, written.read())
    return path
