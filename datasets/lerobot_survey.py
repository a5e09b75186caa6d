"""What a LeRobotDataset means in our words: which features become what, the Spec, and what is assumed or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robot_value import untrusted
from robot_value.convert import ConversionError, Survey, identity_of
from robot_value.datasets.lerobot_files import Metadata
from robot_value.datasets.parquet_rows import Feature, Rows, numbers
from robot_value.types import ActionPart, Camera, Spec

SPEC = "meta/robot_value_spec.json"  # what our exporter leaves there
CAMERAS = "observation.images."
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
OUTCOMES = ("reward", "done", "success", "truncated")  # columns, with or without LeRobot's "next."


@dataclass(frozen=True)
class Columns:
    """Which features become what."""

    action: Feature
    state: tuple[Feature, ...]
    cameras: dict[str, Feature]  # camera name -> feature
    outcomes: dict[str, Feature]  # one of OUTCOMES -> feature

    @classmethod
    def of(cls, metadata: Metadata, wanted: Sequence[str]) -> Columns:
        features = metadata.features
        if unknown := [key for key in wanted if key not in features or not features[key].is_vector]:
            raise ConversionError(
                f"--source.state: expected features of numbers, got {unknown}; there are {list(features)}"
            )
        found = [key for key, feature in features.items() if key.startswith("observation.") and feature.is_vector]
        found.sort(key=lambda key: key != "observation.state")  # stable: the others stay in the set's order
        outcomes = {}
        for name, key in ((name, f"{prefix}{name}") for prefix in ("", "next.") for name in OUTCOMES):
            if key in features and features[key].is_vector and features[key].shape == (1,):
                outcomes[name] = features[key]
        return cls(
            features["action"],
            tuple(features[key] for key in wanted or found),
            _named([feature for feature in features.values() if feature.is_camera]),
            outcomes,
        )

    @property
    def used(self) -> tuple[Feature, ...]:
        return (self.action, *self.state, *self.cameras.values(), *self.outcomes.values())

    @property
    def state_names(self) -> tuple[str, ...]:
        named = [feature.names for feature in self.state if len(feature.names) == feature.shape[0]]
        flat = [name for names in named for name in names]
        if len(flat) == sum(feature.shape[0] for feature in self.state) == len(set(flat)):
            return tuple(flat)
        return tuple(f"{feature.key}_{i}" for feature in self.state for i in range(feature.shape[0]))


def _named(cameras: Sequence[Feature]) -> dict[str, Feature]:
    """observation.images.top is called top, unless another would be called so too."""
    short = [feature.key.removeprefix(CAMERAS).removeprefix("observation.") for feature in cameras]
    names = short if len(set(short)) == len(short) else [feature.key for feature in cameras]
    return dict(zip(names, cameras, strict=True))


@dataclass(frozen=True)
class Span:
    """What one pass over the low-dimensional columns tells."""

    low: np.ndarray  # float64[A], smallest action
    high: np.ndarray  # float64[A], largest action
    several: int  # episodes whose task changes
    unreadable: str  # why the first episode that could not be read could not, "" where all could

    @classmethod
    def over(cls, metadata: Metadata, columns: Columns) -> Span:
        task = metadata.features.get("task_index")
        rows = Rows(metadata.root, metadata.rows, [columns.action, *([task] if task else [])])
        low, high = np.full(columns.action.shape, np.inf), np.full(columns.action.shape, -np.inf)
        several, unreadable = 0, ""
        for place in metadata.places:
            try:
                table = rows.take(place.file, place.row, place.row + place.length)
                actions = numbers(table, columns.action, place.file).astype(np.float64)
                several += bool(task) and len(np.unique(numbers(table, task, place.file))) > 1
            except ConversionError as error:  # reported when the episode is converted
                unreadable = unreadable or str(error)
                continue
            actions = actions[np.isfinite(actions).all(1)]  # the store refuses the others, by row
            low = np.minimum(low, actions.min(0, initial=np.inf))
            high = np.maximum(high, actions.max(0, initial=-np.inf))
        return cls(low, high, several, unreadable)


def own_spec(root: Path) -> Spec | None:
    if not (root / SPEC).is_file():
        return None
    try:
        return Spec.from_json(untrusted.read_json(untrusted.inside(root, SPEC)))
    except (ValueError, TypeError, KeyError) as error:
        raise ConversionError(
            f"{root / SPEC}: expected a Spec, got {error}; remove the file or fetch it again"
        ) from error


def assumed_spec(metadata: Metadata, columns: Columns, span: Span) -> Spec:
    """Limits are the data's own range; a number that never changes gets 1 on both sides, for low must be below high."""
    low, high = span.low.astype(np.float32).astype(float), span.high.astype(np.float32).astype(float)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise ConversionError(f"{metadata.root}: expected finite actions, got none {span.unreadable}")
    constant = low == high
    part = ActionPart("action", 0, len(low), "other", "1", tuple(low - constant), tuple(high + constant))
    names = columns.state_names
    return Spec(
        (part,), names, ("1",) * len(names), 1 / metadata.fps, _cameras(columns), language=len(metadata.tasks) > 1
    )


def _cameras(columns: Columns) -> tuple[Camera, ...]:
    return tuple(Camera(name, *feature.size) for name, feature in columns.cameras.items())


def checked(spec: Spec, metadata: Metadata, columns: Columns, path: Path) -> Spec:
    """A Spec that somebody wrote must fit the data."""
    dims = sum(feature.shape[0] for feature in columns.state)
    cameras = {(c.name, c.height, c.width) for c in _cameras(columns)}
    checks = {
        "action numbers": (spec.action_dim, columns.action.shape[0]),
        "state numbers": (spec.state_dim, dims),
        "cameras (name, height, width)": (sorted((c.name, c.height, c.width) for c in spec.cameras), sorted(cameras)),
        "Hz": (round(1 / spec.dt, 3), round(metadata.fps, 3)),
    }
    for what, (said, found) in checks.items():
        if said != found:
            raise ConversionError(f"{path}: expected {said} {what} as the Spec says, got {found}; correct the Spec")
    return spec.choose(horizon=0, n_obs_steps=0)


def survey_of(metadata: Metadata, columns: Columns, spec: Spec, span: Span, guessed: bool, done: str) -> Survey:
    files = {*metadata.rows, *(file for place in metadata.places for file, _, _ in place.videos.values())}
    paths = {name: untrusted.inside(metadata.root, name) for name in sorted(files)}
    sizes = {name: path.stat().st_size if path.is_file() else None for name, path in paths.items()}
    lengths = [place.length for place in metadata.places]
    return Survey(
        format="LeRobotDataset v3.0",
        spec=spec,
        keys=tuple(str(place.index) for place in metadata.places),
        steps=tuple(lengths),
        identity=identity_of([metadata.info, lengths, sorted(metadata.tasks.items()), sizes]),
        assumed=tuple(_assumed(columns, guessed, done)),
        left_out=tuple(_left_out(metadata, columns, span)),
    )


def _assumed(columns: Columns, guessed: bool, done: str) -> list[str]:
    lines = []
    if guessed:
        lines += [
            "action limits: the data's own range; units, kinds and reference unknown; --source.spec=FILE tells them"
        ]
        lines += ["state units: unknown; --source.spec=FILE tells them"] if columns.state else []
    outcomes = columns.outcomes
    if "reward" not in outcomes:
        lines += ["rewards: 0 in every step; `robot-value data label` makes others"]
    if "done" in outcomes:
        lines += [f"{outcomes['done'].key} on the last frame: {done}; --source.done=terminated|ended|ignored"]
    elif "truncated" not in outcomes:
        lines += ["endings: every episode ran out of time, none terminated; `robot-value data label` makes others"]
    if "success" not in outcomes:
        lines += ["success: unknown in every episode; `robot-value data label` makes others"]
    return lines


def _left_out(metadata: Metadata, columns: Columns, span: Span) -> list[str]:
    used = {feature.key for feature in columns.used} | set(INDICES)
    lines = [
        f"{key}: {feature.dtype}{list(feature.shape)}" + (" (depth)" if feature.depth else "")
        for key, feature in metadata.features.items()
        if key not in used
    ]
    wide = [f.key for f in (columns.action, *columns.state) if f.dtype in ("float64", "int64", "int32", "uint32")]
    if wide:
        lines += [f"digits of {', '.join(wide)} that float32 cannot hold"]
    if span.several:
        lines += [f"changes of the task inside {span.several} episodes: their first task stands for all of it"]
    return [*lines, *_statistics(metadata, span)]


def _statistics(metadata: Metadata, span: Span) -> list[str]:
    """meta/stats.json is not needed: training makes its own. Where it contradicts the data, somebody should know."""
    path = metadata.root / "meta/stats.json"
    line = "meta/stats.json: training computes its own statistics"
    if not path.is_file():
        return []
    try:
        stats = untrusted.read_json(path)["action"]
        said = np.array([stats["min"], stats["max"]], float)
        if not np.allclose(said, [span.low, span.high], rtol=1e-4, atol=1e-6):
            line += f"; it says actions are {said[0].tolist()} to {said[1].tolist()}, the data say otherwise"
    except (OSError, ValueError, TypeError, KeyError) as error:
        line += f"; it cannot be read ({error})"
    return [line]
