"""Does the critic look at what it should? Its value of the executed chunk when one input comes from another moment.

    sensitivity of input g = E |V(o, a) - V(o with g of another moment, a)| / std V

Permutation importance (Breiman 2001; Fisher et al. 2019) of the value itself: 0 for an input that the critic ignores,
about 1 where a foreign input moves the value as much as a whole log does (at most 2 / sqrt(pi) = 1.13 if V is normal
and looks at nothing else). What only repeats another input may be ignored and harm nobody.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..results import plain
from ..statistics import Interval
from . import by_episode
from .replayed import Replayed

if TYPE_CHECKING:
    from ..protocols import ChunkPolicy
    from ..types import Observation, Spec
    from .scribe import Moment

COLUMN = "sensitivity"
AXES = {*"xyzw", "qx", "qy", "qz", "qw", "cos", "sin", "roll", "pitch", "yaw"}  # last words that number a vector
CHUNK = "chunk"


@dataclass(frozen=True)
class Sensitivity:
    critic: str
    input: str  # "camera front", "state cube_pos", "language", "goal", "chunk"
    relative: Interval  # mean |change of V| / std of V over the log
    decisions: int  # at which it was tried


@dataclass
class Shuffle:
    """The Onlooker: one column float32[B] of |change| per critic and input, NaN where it was not tried.

    Donors are the other live robots, and where those are fewer than `donors`, moments of before, too.
    """

    policy: ChunkPolicy  # a critic may see through its eyes
    every: int = 4  # batches of decisions of which one is tried, on average: each input costs an encoding and a score
    donors: int = 8  # moments to choose another one from, at least
    seed: int = 0
    moments: int = field(default=0, init=False)
    before: list[Moment] = field(default_factory=list, init=False)  # that together have `donors` live rows

    def look(self, moment: Moment) -> dict[str, np.ndarray]:
        self.moments += 1
        rng = np.random.default_rng([self.seed, self.moments])
        inputs = _inputs(moment.observation, self.policy.spec)
        names = {(c, g): f"{COLUMN} {c} {g}" for c in moment.critics for g in [*inputs, CHUNK]}
        found = {name: np.full(len(moment.live), np.nan, np.float32) for name in names.values()}
        sources = [moment] if moment.live.sum() >= self.donors else [moment, *self.before]
        if rng.random() * self.every < 1 and sum(m.live.sum() for m in sources) >= self.donors:
            theirs, chunks = _others(sources, rng)
            for group, swap in inputs.items():
                changed = swap(moment.observation, theirs)
                seen = self.policy.encode(changed)
                for name, critic in moment.critics.items():
                    found[names[name, group]] = _change(moment, name, critic.encode(changed, seen), moment.logged)
            for name in moment.critics:
                found[names[name, CHUNK]] = _change(moment, name, moment.contexts[name], chunks)
        self._keep(moment)
        return found

    def _keep(self, moment: Moment) -> None:
        """No more of the past than may be needed."""
        self.before.append(moment)
        while len(self.before) > 1 and sum(m.live.sum() for m in self.before[1:]) >= self.donors:
            self.before.pop(0)


def sensitivity(replayed: Replayed, critic: str, resamples: int = 1000, seed: int = 0) -> tuple[Sensitivity, ...]:
    """Of every input that Shuffle tried, most important first; std of V is that of the whole log."""
    value, prefix = replayed.opinions[critic].logged_value.astype(float), f"{COLUMN} {critic} "
    scale = float(np.nanstd(value)) or math.nan  # a constant critic has no scale
    drawn = by_episode.draws(len(replayed.episodes), resamples, seed)
    found = [
        Sensitivity(
            critic,
            name.removeprefix(prefix),
            by_episode.mean(change.astype(float) / scale, replayed.episode, drawn).interval,
            int(np.isfinite(change).sum()),
        )
        for name, change in replayed.columns.items()
        if name.startswith(prefix)
    ]
    return tuple(sorted(found, key=lambda each: -np.nan_to_num(each.relative.mean, nan=-1.0)))


def to_json(found: Sequence[Sensitivity]) -> list[dict[str, Any]]:
    return plain([asdict(each) for each in found])


def state_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Dimensions of a state by what they belong to: "cube_pos_x", "cube_pos_y" are "cube_pos".

    Trailing numbers and axes go; what is then still alone joins those that differ from it only by a number inside:
    "joint_0_velocity", "joint_1_velocity" are "joint_velocity".
    """
    short = [_without_axes(name) for name in names]
    alone = {name for name, count in Counter(short).items() if count == 1}
    merged = [re.sub(r"_\d+(?=_)", "", name) if name in alone else name for name in short]
    groups: dict[str, list[int]] = {}
    for dim, name in enumerate(merged):
        groups.setdefault(name, []).append(dim)
    return groups


def _without_axes(name: str) -> str:
    """Without the axes at its end, or, where there are none, the numbers: "cube_0_x" is of "cube_0"."""
    words = re.sub(r"\[(\d+)\]", r"_\1", name).split("_")
    numbers = words[-1] not in AXES
    while len(words) > 1 and (words[-1].isdigit() if numbers else words[-1] in AXES):
        words.pop()
    return "_".join(words)


Swap = Callable[["Observation", "Observation"], "Observation"]


def _inputs(observation: Observation, spec: Spec) -> Mapping[str, Swap]:
    """Input -> how it is taken from another observation."""
    swaps: dict[str, Swap] = {f"camera {name}": _camera(name) for name in observation.images}
    swaps |= {f"state {name}": _state(dims) for name, dims in state_groups(spec.state_names).items()}
    if spec.language:
        swaps["language"] = lambda mine, theirs: replace(mine, task=theirs.task)
    if observation.goal is not None:
        swaps["goal"] = lambda mine, theirs: replace(mine, goal=theirs.goal)
    return swaps


def _camera(name: str) -> Swap:
    return lambda mine, theirs: replace(mine, images=mine.images | {name: theirs.images[name]})


def _state(dims: list[int]) -> Swap:
    def swap(mine: Observation, theirs: Observation) -> Observation:
        state = mine.state.copy()
        state[..., dims] = theirs.state[..., dims]
        return replace(mine, state=state)

    return swap


def _change(moment: Moment, critic: str, context: Any, chunks: Any) -> np.ndarray:
    """|change of V| float32[B] for these chunks [B, H, A] in this context."""
    scores = moment.critics[critic].score(context, chunks[:, None], moment.length[:, None])
    return np.abs(scores.value[:, 0].cpu().numpy() - moment.opinions[critic]["logged_value"])


def _others(sources: Sequence[Moment], rng: np.random.Generator) -> tuple[Observation, Any]:
    """Another moment for each of the B robots of the first source: its observation, and its chunk [B, H, A]."""
    import torch

    live = np.flatnonzero(np.concatenate([source.live for source in sources]))
    robots = len(sources[0].live)
    own = np.searchsorted(live, np.arange(robots))  # a robot that rests gets any
    chosen = live[(own + rng.integers(1, len(live), robots)) % len(live)]  # never its own
    observation = sources[0].observation if len(sources) == 1 else _joined([s.observation for s in sources])
    return observation.rows(chosen), torch.cat([s.logged for s in sources])[torch.from_numpy(chosen)]


def _joined(parts: Sequence[Observation]) -> Observation:
    """One batch of all their robots."""
    first, columns = parts[0], ("state", "time", "step", "episode", "pending", "committed")
    return replace(
        first,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
        images={name: np.concatenate([part.images[name] for part in parts]) for name in first.images},
        task=tuple(task for part in parts for task in part.task),
        goal=None if first.goal is None else _joined([part.goal for part in parts]),
    )
