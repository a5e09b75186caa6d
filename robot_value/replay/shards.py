"""An episode's timeline as a script: from file:// a page may load scripts and cannot fetch.

`data/episode_000012.js` calls `robot_value_episode(12, {...})`. Long float arrays travel as little-endian uint16
between each column's low and high, base64: 2.7 bytes a number, exact to 1/65535 of its range.
"""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..types import SOURCES, Episode
from .replayed import Replayed
from .report import Report, detour
from .subgoals import of_episode

POINTS = 400  # of a trace; longer ones are thinned
DIGITS = 4  # of a score


@dataclass(frozen=True)
class Pictures:
    """How much of the cameras a page keeps."""

    side: int = 192  # px, longest side of a thumbnail
    per_episode: int = 60  # frames per camera, evenly over the episode
    quality: int = 70  # of JPEG
    budget: float = 1e9  # bytes of the whole page; long logs keep fewer frames of each episode

    def frames(self, episodes: int, cameras: int) -> int:
        """Per camera and episode, from about side² / 8 bytes a frame."""
        room = self.budget / max(1, episodes * cameras) / (self.side**2 / 8)
        return max(4, min(self.per_episode, int(room)))


def shard_name(number: int) -> str:
    return f"data/episode_{number:06d}.js"


def shard(report: Report, number: int, pictures: Pictures) -> str:
    """The script of one episode."""
    return f"robot_value_episode({number}, {script_json(timeline(report, number, pictures))});\n"


def script_json(value: Any) -> str:
    """JSON that may stand inside a script: no text in it ends the element or begins a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def timeline(report: Report, number: int, pictures: Pictures) -> dict[str, Any]:
    """Plain values of one episode."""
    replayed = report.replayed
    facts = replayed.episodes[number]
    episode = report.log.read(facts.name)
    cameras = len(replayed.spec.cameras)
    shown = np.unique(np.linspace(0, len(episode.states) - 1, pictures.frames(len(replayed.episodes), cameras)).round())
    kept = np.unique(np.linspace(0, facts.steps - 1, min(POINTS, facts.steps)).round()).astype(int)
    return {
        "steps": facts.steps,
        "rewards": [[int(t), short(facts.rewards[t])] for t in np.flatnonzero(facts.rewards)],
        "sources": _runs(episode),
        "frames": shown.astype(int).tolist() if cameras else [],
        "cameras": {name: [_jpeg(pixels[int(t)], pictures) for t in shown] for name, pixels in episode.images.items()},
        "at": kept.tolist(),
        "states": packed(episode.states[kept]),
        "actions": packed(episode.actions[kept]),
        "subgoals": of_episode(episode).tolist(),
        "decisions": _decisions(report, replayed, replayed.rows(number)),
        "marks": [[int(mark.step), mark.what] for mark in report.marks if mark.episode == number],
        "notes": list(report.notes.get(facts.name, ())),
    }


def _decisions(report: Report, replayed: Replayed, rows: slice) -> dict[str, Any]:
    """`plans` float[d, H, A, 4]: executed, chosen, and the candidates' lowest and highest."""
    facts = replayed.episodes[int(replayed.episode[rows][0])]
    reasons = list(dict.fromkeys(map(str, replayed.reason[rows])))
    critics = {}
    for name, opinion in replayed.opinions.items():
        fields = ("value", "logged_value", "logged_spread", "chosen_value")
        critics[name] = {each: short(getattr(opinion, each)[rows]) for each in fields}
        critics[name]["limit"] = short(report.limits[name][rows]) if name in report.limits else None
    logged, chosen, candidates = (getattr(replayed, each)[rows] for each in ("logged", "chosen", "candidates"))
    envelope = [extreme.reduce(candidates, 1, initial=np.nan) for extreme in (np.fmin, np.fmax)]  # NaN: not proposed
    envelope = [np.where(np.isnan(each), chosen, each) for each in envelope]
    return {
        "step": replayed.step[rows].tolist(),
        "length": replayed.length[rows].tolist(),
        "index": replayed.index[rows].tolist(),
        "reasons": reasons,
        "reason": [reasons.index(str(each)) for each in replayed.reason[rows]],
        "returns": short(facts.returns(replayed.gamma)[replayed.step[rows]]),
        "detour": short(detour(replayed, rows)),
        "critics": critics,
        "plans": packed(np.stack([logged, chosen, *envelope], 3), axis=2),
    }


def _runs(episode: Episode) -> list[list[Any]]:
    """[first step, one past the last, who] where somebody other than the policy decided."""
    if episode.source is None:
        return []
    edges = np.flatnonzero(np.diff(episode.source, prepend=255)).tolist()
    runs = zip(edges, [*edges[1:], len(episode)], strict=True)
    return [[a, b, SOURCES[episode.source[a]]] for a, b in runs if episode.source[a]]


def packed(values: np.ndarray, axis: int = 1) -> dict[str, Any]:
    """Float array whose `axis` holds columns of one unit, as base64 of uint16 with each column's low and high."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    finite = np.where(np.isfinite(values), values, 0.0).astype(np.float64)  # a packed number cannot say NaN
    low, high = finite.min(others, keepdims=True), finite.max(others, keepdims=True)
    levels = np.rint((finite - low) / np.where(high > low, high - low, 1.0) * 65535).astype("<u2")
    return {
        "shape": list(values.shape),
        "low": short(low.ravel()),
        "high": short(high.ravel()),
        "data": base64.b64encode(levels.tobytes()).decode(),
    }


def short(values: np.ndarray | float) -> Any:
    """Numbers or nested lists of them with DIGITS significant digits; None where not finite."""
    if np.ndim(values):
        return [short(each) for each in np.asarray(values).tolist()]
    return float(f"{values:.{DIGITS}g}") if math.isfinite(values) else None


def _jpeg(picture: np.ndarray, pictures: Pictures) -> str:
    """uint8[h, w, 3] as base64 of a thumbnail."""
    from PIL import Image

    image, file = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((pictures.side, pictures.side))
    image.save(file, "JPEG", quality=pictures.quality)
    return base64.b64encode(file.getvalue()).decode()
