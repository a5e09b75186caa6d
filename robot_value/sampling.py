"""Random windows of recorded episodes as torch batches, and the two sums every TD target is made of.

target(k) = returns(batch, gamma, k) + bootstrap(batch, gamma, k) * next_value     for 1-step, n-step and whole chunks:
returns   = sum_{i < k, valid} gamma^i r_i
bootstrap = gamma^k', k' = number of valid steps among the first k; 0 where the episode terminated inside
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .episodes.cache import Cache
from .types import Observation
from .windows import Windows, make_windows

DRAW = 64  # batches whose starts are drawn, and whose indices are computed, at once

Rows = tuple[torch.Tensor, ...]  # one tensor per batch of a draw


@dataclass(frozen=True)
class TensorObservation:
    """What B robots saw, on the learner's device."""

    state: torch.Tensor  # float32[B, O, S], spec units
    images: dict[str, torch.Tensor]  # camera name -> uint8[B, O, h, w, 3]
    task: torch.Tensor  # int64[B], index into tasks
    tasks: tuple[str, ...]

    def to(self, device: torch.device | str) -> TensorObservation:
        images = {name: image.to(device) for name, image in self.images.items()}
        return TensorObservation(self.state.to(device), images, self.task.to(device), self.tasks)


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
    weight: torch.Tensor  # float32[B]
    success: torch.Tensor  # float32[B], of the episode: 1, 0, NaN where nobody knows
    index: torch.Tensor  # int64[B], row of the window's first action in the cache


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
    )


def split_episodes(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 training and validation episode numbers, sorted, disjoint; `fraction` (rounded) of n are for validation."""
    order = np.random.default_rng(seed).permutation(n)
    held_out = round(n * fraction)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


@dataclass(frozen=True)
class Plan:
    """What DRAW batches will hold, short of the states, actions and images themselves: one entry per batch."""

    draw: int
    now: Rows  # int64[B * O], rows of cache.state, on the CPU
    after: dict[int, Rows]  # offset -> the same at that offset
    padded: Rows  # int64[B], rows of windows.action
    task: Rows
    rewards: Rows
    valid: Rows
    terminated: Rows
    mc_return: Rows
    weight: Rows
    success: Rows
    index: Rows


class ChunkSampler:
    """Uniform over legal starts, with replacement; batch i is a function of (seed, i), so a saved position resumes it.

    A step is legal if what follows it is known: without a final observation, the last step counts only where the
    episode terminated. `episodes` (numbers in the cache) and `success_only` restrict what is drawn from.
    `reward_shuffle_seed` permutes outcomes over the chosen episodes (the "shuffled critic" control, see windows.py).
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
    ):
        self.cache = cache
        self.horizon, self.n_obs_steps = horizon, n_obs_steps
        self.offsets = tuple(offsets) or (horizon,)
        self.length = max(horizon, *self.offsets)  # L
        self.gamma, self.batch_size, self.seed = gamma, batch_size, seed
        self.device = torch.device(device)
        if min(horizon, n_obs_steps, batch_size, *self.offsets) < 1:
            got = f"{horizon}, {n_obs_steps}, {batch_size} and {self.offsets}"
            raise ValueError(f"horizon, n_obs_steps, batch_size and offsets: expected >= 1, got {got}")
        self.windows = make_windows(cache, self.length, gamma, episodes, success_only, reward_shuffle_seed)
        self._starts = _start_table(self.windows, self.length)
        self._task, self._success = torch.from_numpy(self.windows.task), torch.from_numpy(self.windows.success)
        left, ahead = torch.arange(self.length + 2)[:, None], torch.arange(self.length)
        self._valid = ahead < left  # bool[L + 2, L], by the number of steps left
        self._ends = ahead == left - 1  # bool[L + 2, L], is this the episode's last step
        self._state = _tensor(cache.state).to(self.device)
        self._images = {name: _tensor(image) for name, image in cache.images.items()}  # stay memory-mapped
        self._actions = _rolling(_tensor(self.windows.action).to(self.device), horizon)  # [P', H * A], no copy
        self._rewards = _rolling(_tensor(self.windows.reward), self.length)  # [P', L], no copy
        self._mc_return = _tensor(self.windows.mc_return)
        self._position = 0
        self._plan: Plan | None = None

    def __len__(self) -> int:
        """Legal starts."""
        return len(self.windows.episode)

    def sample(self) -> ChunkBatch:
        """The next batch, in memory of its own."""
        draw, i = divmod(self._position, DRAW)
        if self._plan is None or self._plan.draw != draw:
            self._plan = self._make_plan(draw)
        plan, task = self._plan, self._plan.task[i]
        self._position += 1
        return ChunkBatch(
            observation=self._observe(plan.now[i], task),
            chunks=self._actions.index_select(0, plan.padded[i]).view(self.batch_size, self.horizon, -1),
            rewards=plan.rewards[i],
            valid=plan.valid[i],
            terminated=plan.terminated[i],
            next={k: self._observe(rows[i], task) for k, rows in plan.after.items()},
            mc_return=plan.mc_return[i],
            weight=plan.weight[i],
            success=plan.success[i],
            index=plan.index[i],
        )

    def state(self) -> dict[str, int]:
        """JSON values; after `load_state` come exactly the batches that would have come here."""
        return {"position": self._position} | self._identity()

    def load_state(self, state: dict[str, int]) -> None:
        got = {key: state.get(key) for key in self._identity()}
        if got != self._identity():
            raise ValueError(f"sampler state: expected {self._identity()}, got {got}; same data and configuration?")
        self._position, self._plan = state["position"], None

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "starts": len(self), "batch_size": self.batch_size}

    def _make_plan(self, draw: int) -> Plan:
        """All index arithmetic of DRAW batches at once; n = DRAW * B."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, draw], np.uint64)))
        starts = torch.from_numpy(generator.integers(0, len(self), DRAW * self.batch_size))
        columns = self._starts.index_select(0, starts).t().to(torch.int64, memory_format=torch.contiguous_format)
        frame, first_frame, last_frame, padded, index, left, terminated, episode = columns
        return Plan(
            draw=draw,
            now=self._history(frame, first_frame),
            after={k: self._history(torch.minimum(frame + k, last_frame), first_frame) for k in self.offsets},
            padded=self._split(padded),
            task=self._split(self._task.index_select(0, episode)),
            rewards=self._split(self._rewards.index_select(0, padded)),
            valid=self._split(self._valid.index_select(0, left)),
            terminated=self._split(self._ends.index_select(0, left * terminated)),
            mc_return=self._split(self._mc_return.index_select(0, padded)),
            weight=self._split(torch.ones(len(starts))),
            success=self._split(self._success.index_select(0, episode)),
            index=self._split(index),
        )

    def _history(self, frame: torch.Tensor, first: torch.Tensor) -> Rows:
        """Rows of cache.state for the O frames that end in `frame`, int64[B * O] per batch."""
        back = torch.arange(self.n_obs_steps - 1, -1, -1)
        rows = torch.maximum(frame[:, None] - back, first[:, None]).view(DRAW, -1)
        return rows.unbind(0)

    def _split(self, column: torch.Tensor) -> Rows:
        """[DRAW * B, ...] -> DRAW tensors [B, ...] on the device."""
        return column.to(self.device).view(DRAW, self.batch_size, *column.shape[1:]).unbind(0)

    def _observe(self, rows: torch.Tensor, task: torch.Tensor) -> TensorObservation:
        shape = (self.batch_size, self.n_obs_steps)
        state = self._state.index_select(0, rows.to(self.device, non_blocking=True)).view(*shape, -1)
        images = {
            name: self._pixels(image, rows).view(*shape, *image.shape[1:]) for name, image in self._images.items()
        }
        return TensorObservation(state, images, task, self.cache.tasks)

    def _pixels(self, image: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Gathered on the CPU from the memory map; through pinned memory to an accelerator."""
        if self.device.type == "cpu":
            return image.index_select(0, rows)
        pinned = torch.empty((len(rows), *image.shape[1:]), dtype=image.dtype, pin_memory=True)
        return torch.index_select(image, 0, rows, out=pinned).to(self.device, non_blocking=True)


def _start_table(windows: Windows, length: int) -> torch.Tensor:
    """int32[N, 8]: all a window needs to know, in one cache line per legal start."""
    e, t = windows.episode, windows.step
    columns = [
        windows.first_frame[e] + t,  # now, row in cache.state
        windows.first_frame[e],
        windows.last_frame[e],
        windows.first_padded[e] + t,  # row in windows.action
        windows.first_step[e] + t,  # row in cache.action
        np.minimum(windows.steps[e] - t, length + 1),  # steps from here to the end; length + 1: the end is out of sight
        windows.terminated[e],
        e,
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.int32))


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
