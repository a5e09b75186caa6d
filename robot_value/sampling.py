"""Random windows of recorded episodes as torch batches, and the two sums every TD target is made of.

target(k) = returns(batch, gamma, k) + bootstrap(batch, gamma, k) * next_value     for 1-step, n-step and whole chunks:
returns   = sum_{i < k, valid} gamma^i r_i
bootstrap = gamma^k', k' = number of valid steps among the first k; 0 where the episode terminated inside
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .episodes.cache import Cache
from .goals import NEVER, GoalConfig, Labels, choose_goals, label
from .types import Observation, Seen
from .windows import Windows, make_windows

if TYPE_CHECKING:
    from .features.cached import CacheFeatures
    from .labels.cached import CacheLabels

DRAW = 32  # batches whose starts are drawn at once
GROUP_BYTES = 4 << 20  # small batches are gathered several at once, because overhead is what they cost

Rows = tuple[torch.Tensor, ...]  # one tensor per batch


@dataclass(frozen=True)
class TensorObservation:
    """What B robots saw, on the learner's device."""

    state: torch.Tensor  # float32[B, O, S], spec units
    images: dict[str, torch.Tensor]  # camera name -> uint8[B, O, h, w, 3]
    task: torch.Tensor  # int64[B], index into tasks
    tasks: tuple[str, ...]
    goal: TensorObservation | None = None  # what the robots should reach; its last frame counts
    seen: Seen | None = None  # what a frozen policy made of it, where that was written beside the data

    def to(self, device: torch.device | str) -> TensorObservation:
        images = {name: image.to(device) for name, image in self.images.items()}
        goal = None if self.goal is None else self.goal.to(device)
        seen = None if self.seen is None else self.seen.to(device)
        return TensorObservation(self.state.to(device), images, self.task.to(device), self.tasks, goal, seen)


@dataclass(frozen=True)
class ChunkBatch:
    """B windows. L = max(H, largest offset). Chunk rows past the episode's end repeat its last action."""

    observation: TensorObservation
    chunks: torch.Tensor  # float32[B, H, A], spec units
    rewards: torch.Tensor  # float32[B, L], 0 past the end
    valid: torch.Tensor  # bool[B, L], the step was really taken
    terminated: torch.Tensor  # bool[B, L], the task ended with this step
    next: dict[int, TensorObservation]  # offset k -> the observation at min(t + k, the last there is)
    mc_return: torch.Tensor  # float32[B], discounted return to go; where time ran out, just the sum, no bootstrap
    weight: torch.Tensor  # float32[B], of the row in a loss; 1 also where labels weigh starts: they are drawn by that
    success: torch.Tensor  # float32[B], of the episode: 1, 0, NaN where nobody knows
    index: torch.Tensor  # int64[B], row of the window's first action in the cache
    next_chunks: dict[int, torch.Tensor] = field(default_factory=dict)  # offset k -> float32[B, H, A] from t + k on

    @property
    def goal(self) -> TensorObservation | None:
        """Towards what rewards and terminations were relabelled; every observation of the batch carries it."""
        return self.observation.goal


def returns(batch: ChunkBatch, gamma: float, k: int) -> torch.Tensor:
    """float32[B]: discounted sum of the rewards of the first k steps, as far as they are valid."""
    _enough(batch, k)
    discount = gamma ** torch.arange(k, device=batch.rewards.device, dtype=batch.rewards.dtype)
    return (batch.rewards[:, :k] * batch.valid[:, :k]) @ discount


def bootstrap(batch: ChunkBatch, gamma: float, k: int) -> torch.Tensor:
    """float32[B]: what the value of `next[k]` is multiplied by; 0 where the task ended within the first k steps."""
    _enough(batch, k)
    steps = batch.valid[:, :k].sum(1).to(batch.rewards.dtype)
    return torch.where(batch.terminated[:, :k].any(1), 0.0, gamma**steps)


def to_tensors(observation: Observation, device: torch.device | str = "cpu") -> TensorObservation:
    """A Robot's observation on the learner's device; distinct task texts become indices."""
    tasks = tuple(dict.fromkeys(observation.task))
    return TensorObservation(
        state=torch.from_numpy(np.ascontiguousarray(observation.state)).to(device),
        images={
            name: torch.from_numpy(np.ascontiguousarray(image)).to(device) for name, image in observation.images.items()
        },
        task=torch.tensor([tasks.index(text) for text in observation.task], dtype=torch.int64, device=device),
        tasks=tasks,
        goal=None if observation.goal is None else to_tensors(observation.goal, device),
    )


def split_episodes(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 training and validation episode numbers, sorted, disjoint; `fraction` (rounded) of n are for validation."""
    order = np.random.default_rng(seed).permutation(n)
    held_out = round(n * fraction)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


@dataclass(frozen=True)
class Group:
    """Several batches, gathered together; one entry per batch in every field that is `Rows`."""

    rows: list[torch.Tensor]  # now and per offset: int64[group, B * O], rows of the images
    states: list[Rows]  # now and per offset
    offsets: tuple[int, ...]
    task: Rows
    chunks: Rows
    rewards: Rows
    valid: Rows
    terminated: Rows
    mc_return: Rows
    weight: Rows
    success: Rows
    index: Rows
    goal: tuple[torch.Tensor, Rows] | None  # rows of the images int64[group, B], and states
    next_chunks: list[Rows]  # per offset, empty unless asked for

    def batch(
        self,
        i: int,
        pixels: Callable[[torch.Tensor], dict[str, torch.Tensor]],
        seen: Callable[[torch.Tensor], Seen | None],
        tasks: tuple[str, ...],
    ) -> ChunkBatch:
        """The i-th batch, its images and what a policy made of them fetched now."""
        task, goal = self.task[i], None
        if self.goal is not None:
            goal = TensorObservation(self.goal[1][i], pixels(self.goal[0][i]), task, tasks)
        now, *after = [
            TensorObservation(states[i], pixels(rows[i]), task, tasks, goal, seen(rows[i]))
            for rows, states in zip(self.rows, self.states, strict=True)
        ]
        return ChunkBatch(
            now,
            self.chunks[i],
            self.rewards[i],
            self.valid[i],
            self.terminated[i],
            dict(zip(self.offsets, after, strict=True)),
            self.mc_return[i],
            self.weight[i],
            self.success[i],
            self.index[i],
            {k: rows[i] for k, rows in zip(self.offsets, self.next_chunks, strict=False)},
        )


class ChunkSampler:
    """Uniform over legal starts, with replacement; batch i is a function of (seed, i), so a saved position resumes it.

    `labels` replace the recorded rewards, returns, terminations and successes; their weights make a start be drawn in
    proportion. The weight is in the drawing alone: `ChunkBatch.weight` stays 1, or it would count twice.

    A step is legal if what follows it is known: without a final observation, the last step counts only where the
    episode terminated. `episodes` (numbers in the cache) and `success_only` restrict what is drawn from.
    `reward_shuffle_seed` permutes rewards over the chosen steps (the "shuffled critic" control, see windows.py).
    `goals` gives every window a recorded frame as its goal, and rewards and terminations towards it (see goals.py).
    `features` gives every observation, now and ahead, what a frozen policy made of it (see features/).
    """

    def __init__(
        self,
        cache: Cache,
        horizon: int,  # H, steps in a chunk
        n_obs_steps: int = 1,  # O, observations in a history; the first frame is repeated before the start
        offsets: Sequence[int] = (),  # k of every next observation asked for; default (horizon,)
        gamma: float = 0.99,  # discount per control step, for mc_return
        batch_size: int = 256,
        seed: int = 0,
        episodes: Sequence[int] | np.ndarray | None = None,
        device: torch.device | str = "cpu",
        success_only: bool = False,
        reward_shuffle_seed: int | None = None,
        next_chunks: bool = False,  # also the chunks that were recorded from every offset on, for SARSA
        goals: GoalConfig | None = None,
        labels: CacheLabels | None = None,
        features: CacheFeatures | None = None,  # what a frozen policy made of the cache's frames
        share: tuple[int, int] = (0, 1),  # (i, n): only the i-th n-th of every batch's rows, for one of n processes
    ):
        self.cache, self.features = cache, features
        self.horizon, self.n_obs_steps = horizon, n_obs_steps
        self.offsets = tuple(offsets) or (horizon,)
        self.length = max(horizon, *self.offsets)  # L
        self.gamma, self.batch_size, self.seed = gamma, batch_size, seed
        self.device = torch.device(device)
        i, n = self.share = share
        if batch_size % n:
            raise ValueError(f"batch_size: expected a multiple of the {n} processes that share it, got {batch_size}")
        self._rows = slice(i * batch_size // n, (i + 1) * batch_size // n)  # of every batch
        self.rows = batch_size // n  # of them
        if min(horizon, n_obs_steps, batch_size, *self.offsets) < 1:
            got = f"{horizon}, {n_obs_steps}, {batch_size} and {self.offsets}"
            raise ValueError(f"horizon, n_obs_steps, batch_size and offsets: expected >= 1, got {got}")
        self.next_chunks = next_chunks
        padding = self.length + (horizon if next_chunks else 0)
        if goals and reward_shuffle_seed is not None:
            raise ValueError(
                "reward_shuffle_seed: expected None with goals, which replace the rewards that it permutes"
            )
        if goals and labels and labels.rewarded:
            raise ValueError(f"labels {labels.name!r}: expected weights alone with goals, which replace their rewards")
        self.goals, self.labels = goals, labels
        self.windows = make_windows(
            cache, padding, gamma, episodes, success_only, reward_shuffle_seed, goals is not None, labels
        )
        self._chances = _cumulative(self.windows.weight)
        self._episode, self._table = torch.from_numpy(self.windows.episode), _table(self.windows)
        self._success = torch.from_numpy(self.windows.success)
        self._frames = _frames(self.windows)
        left, ahead = torch.arange(self.length + 2)[:, None], torch.arange(self.length)
        self._valid = (ahead < left).to(self.device)  # bool[L + 2, L], by the number of steps left
        self._ends = (ahead == left - 1).to(self.device)  # bool[L + 2, L], is this the episode's last step
        self._state = _tensor(cache.state).to(self.device)
        self._images = {name: _tensor(image) for name, image in cache.images.items()}  # stay memory-mapped
        self._actions = _rolling(_tensor(self.windows.action).to(self.device), horizon)  # [P', H * A], no copy
        self._rewards = _rolling(_tensor(self.windows.reward).to(self.device), self.length)  # [P', L], no copy
        self._mc_return = _tensor(self.windows.mc_return).to(self.device)
        self._group_size = self._batches_per_gather()
        self._position = 0
        self._drawn: tuple[int, torch.Tensor, torch.Tensor] | None = None  # number, int32[DRAW, B], [DRAW, B, 2 or 0]
        self._group: Group | None = None

    def __len__(self) -> int:
        """Legal starts."""
        return len(self.windows.episode)

    def sample(self) -> ChunkBatch:
        """The next batch; no other batch shares its memory."""
        within = self._position % self._group_size
        if within == 0 or self._group is None:
            self._group = self._gather(*self._draws(self._position - within))
        self._position += 1
        pixels, seen = self._pixels if self._images else _no_pixels, self._seen if self.features else _nothing
        return self._group.batch(within, pixels, seen, self.cache.tasks)

    def state(self) -> dict[str, Any]:
        """JSON values; after `load_state` come exactly the batches that would have come here."""
        return {"position": self._position} | self._identity()

    def load_state(self, state: dict[str, Any]) -> None:
        got = {key: value for key, value in state.items() if key != "position"}
        if got != self._identity():
            raise ValueError(
                f"sampler state: expected {self._identity()}, got {got}; go on with the data, labels and features that "
                "the run began with, or train into another folder"
            )
        self._position, self._group = state["position"], None

    def _identity(self) -> dict[str, Any]:
        beside = {"labels": self.labels, "features": self.features}
        hashes = {name: each.hash for name, each in beside.items() if each}
        return {"seed": self.seed, "starts": len(self), "batch_size": self.batch_size} | hashes

    def _batches_per_gather(self) -> int:
        """The largest power of two of batches whose low-dimensional part fits GROUP_BYTES, at most DRAW."""
        row = 4 * self._state.shape[1] * self.n_obs_steps * (1 + len(self.offsets)) + 4 * self._actions.shape[1]
        return 1 << max(0, min(DRAW, GROUP_BYTES // (row * self.rows)).bit_length() - 1)

    def _draws(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """int32[n], numbers of legal starts, and float64[n, 2] in [0, 1) for their goals (without goals [n, 0]).

        Keyed by (seed, draw), so any position can be had directly.
        """
        draw, within = divmod(position, DRAW)
        if self._drawn is None or self._drawn[0] != draw:
            generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, draw], np.uint64)))
            starts = self._starts(generator)
            chance = generator.random((DRAW, self.batch_size, 2 if self.goals else 0))
            self._drawn = draw, torch.from_numpy(starts), torch.from_numpy(chance)
        group = slice(within, within + self._group_size)
        starts, chance = (drawn[group, self._rows].flatten(0, 1) for drawn in self._drawn[1:])
        return starts, chance

    def _starts(self, generator: np.random.Generator) -> np.ndarray:
        """int32[DRAW, B]; by weight, the first start whose cumulative share lies above a uniform number."""
        shape = (DRAW, self.batch_size)
        if self._chances is None:
            return generator.integers(0, len(self), shape, np.int32)
        return np.searchsorted(self._chances, generator.random(shape), side="right").astype(np.int32)

    def _gather(self, starts: torch.Tensor, chance: torch.Tensor) -> Group:
        """Index arithmetic and everything but the images for n = group_size * B rows at once."""
        episode = self._episode.index_select(0, starts)
        to_frame, to_step, to_padded, end, first_frame, last_frame, terminated, task = self._table.index_select(
            0, episode
        ).unbind(1)
        left = end - starts  # steps to the episode's end
        seen = left.clamp(max=self.length + 1)  # L + 1: the end is out of sight
        padded = (starts + to_padded).to(self.device)
        now = starts + to_frame
        if self.goals is None:
            goal, labels = None, self._recorded(padded, seen * terminated, episode)
        else:
            goal, labels = self._towards_goals(chance, now, last_frame, left)
        rows = [self._history(now, first_frame)]
        rows += [self._history(torch.minimum(now + k, last_frame), first_frame) for k in self.offsets]
        return Group(
            rows=[each.view(self._group_size, -1) for each in rows],
            states=[self._split(self._state.index_select(0, r.to(self.device)), self.n_obs_steps, -1) for r in rows],
            offsets=self.offsets,
            task=self._split(task),
            chunks=self._split(self._actions.index_select(0, padded), self.horizon, -1),
            rewards=self._split(labels.rewards),
            valid=self._split(self._valid.index_select(0, seen.to(self.device))),
            terminated=self._split(labels.terminated),
            mc_return=self._split(labels.mc_return),
            weight=self._split(torch.ones(len(starts))),
            success=self._split(labels.success),
            index=self._split(starts + to_step),
            goal=goal,
            next_chunks=[
                self._split(self._actions.index_select(0, padded + k), self.horizon, -1)
                for k in (self.offsets if self.next_chunks else ())
            ],
        )

    def _recorded(self, padded: torch.Tensor, end: torch.Tensor, episode: torch.Tensor) -> Labels:
        """end int64[n]: steps to a termination within sight, 0 where there is none."""
        return Labels(
            rewards=self._rewards.index_select(0, padded),
            terminated=self._ends.index_select(0, end.to(self.device)),
            mc_return=self._mc_return.index_select(0, padded),
            success=self._success.index_select(0, episode),
        )

    def _towards_goals(
        self, chance: torch.Tensor, now: torch.Tensor, last: torch.Tensor, left: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, Rows], Labels]:
        """The goals' frames and states, and what the windows are worth towards them."""
        goal = choose_goals(self.goals, self.gamma, chance, now, last, self._frames)
        distance = torch.where((now <= goal) & (goal <= last), goal - now, NEVER)
        states = self._split(self._state.index_select(0, goal.to(self.device)), 1, -1)
        return (goal.view(self._group_size, -1), states), label(self.goals, self.gamma, self.length, distance, left)

    def _history(self, frame: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """int64[n * O]: rows of cache.state of the O frames that end in `frame`, never before the first."""
        if self.n_obs_steps == 1:
            return frame
        back = torch.arange(self.n_obs_steps - 1, -1, -1)
        return torch.maximum(frame[:, None] - back, first[:, None]).view(-1)

    def _split(self, rows: torch.Tensor, *shape: int) -> Rows:
        """[n, ...] -> group_size tensors [B, *shape] on the device."""
        return rows.to(self.device).view(self._group_size, self.rows, *(shape or rows.shape[1:])).unbind(0)

    def _pixels(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8[B, O (goals: 1), h, w, 3] per camera, from the memory map; through pinned memory to an accelerator."""
        pixels = {}
        for name, image in self._images.items():
            if self.device.type == "cpu":
                chosen = image.index_select(0, rows)
            else:
                pinned = torch.empty((len(rows), *image.shape[1:]), dtype=image.dtype, pin_memory=True)
                chosen = torch.index_select(image, 0, rows, out=pinned).to(self.device, non_blocking=True)
            pixels[name] = chosen.view(self.rows, -1, *image.shape[1:])
        return pixels

    def _seen(self, rows: torch.Tensor) -> Seen:
        """rows int64[B * O]: an observation is known by its newest frame."""
        return self.features.at(rows.view(self.rows, -1)[:, -1]).to(self.device)


def _no_pixels(_: object) -> dict[str, torch.Tensor]:
    return {}


def _nothing(_: object) -> None:
    return None


def _table(windows: Windows) -> torch.Tensor:
    """int64[E, 8]: what turns the number of a legal start into rows of the cache and of the padded arrays."""
    first_start = np.cumsum(windows.steps) - windows.steps
    columns = [
        windows.first_frame - first_start,
        windows.first_step - first_start,
        windows.first_padded - first_start,
        first_start + windows.steps,  # end
        windows.first_frame,
        windows.last_frame,
        windows.terminated.astype(np.int64),
        windows.task,
    ]
    return torch.from_numpy(np.stack(columns, axis=1))


def _cumulative(weight: np.ndarray | None) -> np.ndarray | None:
    """float64[N], share of all starts up to and with each; 1 from the last that is ever drawn."""
    if weight is None:
        return None
    total = np.cumsum(weight)
    return total / total[-1]


def _frames(windows: Windows) -> torch.Tensor:
    """int64[F]: rows of cache.state of every frame of the chosen episodes."""
    pairs = zip(windows.first_frame.tolist(), windows.last_frame.tolist(), strict=True)
    return torch.cat([torch.arange(first, last + 1) for first, last in pairs])


def _rolling(rows: torch.Tensor, length: int) -> torch.Tensor:
    """[P - length + 1, length * width]: a view of every run of `length` neighbouring rows."""
    width = rows[0].numel()
    return rows.as_strided((len(rows) - length + 1, length * width), (width, 1))


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A view. Memory maps are read-only, of which torch warns; nothing here writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _enough(batch: ChunkBatch, k: int) -> None:
    if not 1 <= k <= batch.rewards.shape[1]:
        raise ValueError(f"k: expected 1 to {batch.rewards.shape[1]} steps (ask the sampler for offset k), got {k}")
