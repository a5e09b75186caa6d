"""`robot-value mine REPLAY`: from what a replay saw to the next round of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import flags
from ..episodes import EpisodeStore
from ..replay import mining, selection, subgoals
from ..replay.replayed import Replayed, join
from ..replay.tables import load


@dataclass(frozen=True)
class Mine:
    """Choose episodes and moments of a finished replay: as a smaller store, as weights, or only to see what would be.

    REPLAY is the folder that `robot-value replay --out` wrote.
    """

    critic: str | None = None  # whose values are believed; the one that steered unless given
    mining: mining.Config = mining.Config()  # what is looked for
    choose: selection.Config = selection.Config()  # what is made of it
    store: str = ""  # the store that was replayed, whose episodes are copied
    out: str = ""  # store that gets the kept episodes (needs --store); none: nothing is copied
    marked: bool = False  # copy only episodes with a moment that is taken
    cut: subgoals.Config = subgoals.Config()  # how subgoals are found
    subgoals: str = ""  # JSON file that gets the kept episodes' subgoals (in every frame, with --store); none: no file
    weights: str = ""  # folder that gets weights-*.json for `data label --labeler.type=mined`; none: not written


def run(argv: Sequence[str]) -> int:
    paths, rest = flags.positional(argv)
    config = flags.parse(Mine, rest, {}, "robot-value mine REPLAY").values
    if len(paths) != 1:
        raise flags.FlagError(f"expected one folder of a replay, got {len(paths)}: robot-value mine REPLAY")
    if config.out and not config.store:
        raise flags.FlagError("--out: expected --store too, the store that was replayed, got none")
    replayed = read(Path(paths[0]))
    if config.critic is not None and config.critic not in replayed.opinions:
        raise flags.FlagError(f"--critic: expected one of {', '.join(replayed.opinions)}, got {config.critic!r}")
    mined = mining.mine(replayed, config.critic, config.mining)
    chosen = selection.choose(replayed, mined, config.choose)
    print(*mined.findings(), summary(replayed, chosen), sep="\n")
    if config.subgoals:
        print(subgoals.write(Path(config.subgoals), cut(config, replayed, chosen)))
    if config.weights:
        table = selection.write_table(chosen, Path(config.weights))
        print(f"{table}\nrobot-value data label STORE --labeler.type=mined --labeler.table={table}")
    if config.out:
        copied = selection.export(chosen, EpisodeStore.open(config.store), config.out, config.marked)
        print(f"{config.out}: {len(copied.appended)} episodes copied, {copied.there} were there")
    return 0


def read(folder: Path) -> Replayed:
    """What the replay kept of its pass."""
    parts = [load(path) for path in folder.glob(".parts/*.npz")]
    if not parts:
        raise ValueError(f"{folder}: expected the folder of a replay, got one without .parts; run `robot-value replay`")
    return join(sorted(parts, key=lambda part: part.episodes[0].name))


def cut(config: Mine, replayed: Replayed, chosen: selection.Selection) -> dict[str, np.ndarray]:
    """Episode -> control steps int64[G] of its subgoals; without the store, as finely as decisions were made."""
    if config.store:
        store = EpisodeStore.open(config.store)
        return {name: subgoals.of_episode(store.read(name), config.cut) for name in chosen.names}
    if config.cut.embed:
        raise flags.FlagError("--cut.embed: expected --store too, where the images are, got none")
    found = zip(replayed.episodes, subgoals.of_replayed(replayed, config.cut), strict=True)
    return {episode.name: steps for episode, steps in found if episode.name in set(chosen.names)}


def summary(replayed: Replayed, chosen: selection.Selection) -> str:
    kept, marked = len(chosen.names), len(chosen.marked)
    return f"{kept} of {len(replayed.episodes)} episodes kept, {marked} of them with a moment that is taken"
