"""Episodes as .rrd files for the Rerun viewer (extra "rerun"): frames, states, actions, rewards and critics' values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..episodes.durable import replace_file
from .report import Report, detour


def write_rrd(folder: Path, report: Report, numbers: Sequence[int] | None = None) -> list[Path]:
    """One file per episode, all without `numbers`; older ones go. Raises ImportError with what to install."""
    try:
        import rerun
    except ImportError as error:
        raise ImportError("writing .rrd files needs rerun-sdk: pip install 'robot_value[rerun]'") from error
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


def _write(rerun, path: Path, report: Report, number: int) -> Path:
    replayed, facts = report.replayed, report.replayed.episodes[number]
    episode, rows = report.log.read(facts.name), replayed.rows(number)
    stream = rerun.RecordingStream("robot_value", recording_id=facts.name, send_properties=False)
    written = stream.binary_stream()

    def columns(entity: str, steps: np.ndarray, values: np.ndarray, names: Sequence[str]) -> None:
        """values float[steps, names] on both timelines."""
        times = [
            rerun.TimeColumn("step", sequence=steps),
            rerun.TimeColumn("time", duration=steps * replayed.spec.dt),
        ]
        stream.log(entity, rerun.SeriesLines(names=list(names)), static=True)
        stream.send_columns(entity, times, rerun.Scalars.columns(scalars=np.asarray(values, np.float64)))

    spec, every = replayed.spec, np.arange(len(episode))
    parts = [f"{part.name}[{d}]" for part in spec.parts for d in range(part.stop - part.start)]
    columns("states", np.arange(len(episode.states)), episode.states, spec.state_names)
    columns("actions", every, episode.actions, parts)
    columns("rewards", every, episode.rewards[:, None], ["reward"])
    for critic, opinion in replayed.opinions.items():
        values = np.column_stack([opinion.logged_value[rows], opinion.chosen_value[rows], opinion.value[rows]])
        names = ["executed", "chosen", *(f"candidate {n}" for n in range(opinion.value.shape[1]))]
        columns(f"values/{critic}", replayed.step[rows], values, names)
    for step, reason in zip(replayed.step[rows], replayed.reason[rows], strict=True):
        _at(stream, int(step), spec.dt)
        stream.log("decisions", rerun.TextLog(str(reason)))
    for camera, pixels in episode.images.items():
        for step, picture in enumerate(pixels):
            _at(stream, step, spec.dt)
            stream.log(f"cameras/{camera}", rerun.Image(picture).compress())
    replace_file(path, written.read())
    return path


def _at(stream, step: int, dt: float) -> None:
    stream.set_time("step", sequence=step)
    stream.set_time("time", duration=step * dt)
