"""From what was mined to the next round of training: a smaller dataset, or weights for the one there is.

    w_t = 0 in episodes that are left out, emphasis within `around` s of a moment that is taken, 1 elsewhere

The table is named after its content, so that labels made from it (labeler `mined`) say for ever which table it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..episodes import EpisodeStore
from ..episodes.durable import replace_file
from ..episodes.edit import Copied, select
from ..episodes.manifest import canonical, sha256
from ..untrusted import read_json
from .mining import Mined
from .moments import KINDS
from .replayed import Replayed

DEFECTS = ("label_errors", "duplicates")


@dataclass(frozen=True)
class Config:
    take: tuple[str, ...] = ()  # kinds of moments that are emphasised: worse, better, action, onset, near_miss
    leave: tuple[str, ...] = DEFECTS  # episodes that are left out: label_errors, duplicates
    emphasis: float = 4.0  # weight of a step near a moment that is taken, in those of other steps
    around: float = 1.0  # s before and after a moment
    most: int = 0  # episodes kept, the most diverse ones; 0: all


@dataclass(frozen=True)
class Selection:
    weights: Mapping[str, np.ndarray]  # episode -> float32[T]; all 0: left out
    marked: tuple[str, ...]  # kept episodes with a moment that is taken

    @property
    def names(self) -> tuple[str, ...]:
        """Kept episodes, in the order of the log."""
        return tuple(name for name, weight in self.weights.items() if weight.any())


def choose(replayed: Replayed, mined: Mined, config: Config = Config()) -> Selection:
    _check("take", config.take, KINDS)
    _check("leave", config.leave, DEFECTS)
    left = set(mined.redundancy.repeated if "duplicates" in config.leave else ())
    left |= {error.episode for error in mined.label_errors if "label_errors" in config.leave}
    if config.most:
        left |= set(_beyond(mined, left, config.most, [episode.name for episode in replayed.episodes]))
    weights = {e.name: np.full(e.steps, e.name not in left, np.float32) for e in replayed.episodes}
    taken = [mark for mark in mined.marks if mark.kind in config.take and mark.episode not in left]
    reach = round(config.around / replayed.spec.dt)
    for mark in taken:
        weights[mark.episode][max(0, mark.step - reach) : mark.step + reach + 1] = config.emphasis
    return Selection(weights, tuple(dict.fromkeys(mark.episode for mark in taken)))


def export(selection: Selection, source: EpisodeStore, target: str | Path, marked: bool = False) -> Copied:
    """Copy the kept episodes (`marked`: only those with a moment that is taken) to a store; continues one."""
    names = selection.marked if marked else selection.names
    exists = (Path(target) / "zarr.json").exists()
    with EpisodeStore.open(target, "a") if exists else EpisodeStore.create(target, source.spec) as store:
        return select(source, store, names, progress=False)


def write_table(selection: Selection, folder: Path) -> Path:
    """weights-<content>.json for `robot-value data label STORE --labeler.type=mined --labeler.table=...`."""
    content = canonical({name: weight.tolist() for name, weight in selection.weights.items()})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"weights-{sha256(content)[:12]}.json"
    replace_file(path, content)
    return path


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Episode -> float32[T]. Raises ValueError where it is not the file that `write_table` wrote."""
    table = read_json(path)
    if path.name != f"weights-{sha256(canonical(table))[:12]}.json":
        raise ValueError(f"{path}: expected the name that its content has, got an edited or renamed table; mine again")
    return {name: np.array(weights, np.float32) for name, weights in table.items()}


def _beyond(mined: Mined, left: set[str], most: int, names: Sequence[str]) -> list[str]:
    """Episodes that are not among the `most` most diverse of those that stay."""
    kept = [name for name in mined.redundancy.diverse if name not in left][:most]
    return [name for name in names if name not in kept]


def _check(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    if strangers := sorted(set(given) - set(known)):
        raise ValueError(f"{flag}: expected some of {', '.join(known)}, got {', '.join(strangers)}")
