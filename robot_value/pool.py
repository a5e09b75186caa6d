"""Sampling from a dataset larger than RAM: pools of random episodes are decoded from the store, one ahead of its use.

An epoch cuts a random order of all episodes into pools of a byte budget. Pool p, with n_p of the N legal starts, serves

    floor((e N + n_1 + .. + n_p) / B + u) - floor((e N + n_1 + .. + n_{p-1}) / B + u)

batches of B starts drawn uniformly from it, u ~ U[0, 1) by the seed: n_p / B in expectation, so every legal start of
the dataset is drawn once per epoch in expectation. The approximation: batches that follow each other come from one
pool, and (`reward_shuffle_seed`, random goals) what is shuffled or drawn over the dataset is so over a pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .episodes.cache import Cache
from .episodes.store import EpisodeStore
from .sampling import ChunkBatch, ChunkSampler

if TYPE_CHECKING:
    from .labels.cached import CacheLabels

PER_STEP = 64  # bytes that windows and labels keep of a step beside its states, images and actions, at most


@dataclass(frozen=True)
class Plan:
    """One pool of an epoch."""

    first: int  # its first batch, counted over all epochs
    last: int  # one past its last batch
    episodes: np.ndarray  # int64[n], numbers in the outline
    seed: int  # of its draws


class PoolSampler:
    """A Sampler like ChunkSampler: batch i is a function of (seed, pool_bytes, i), so a saved position resumes it.

    `index` of a batch counts in its pool. At most `pool_bytes` are held: the pool in use, the next one and the episode
    being decoded.
    """

    def __init__(
        self,
        store: EpisodeStore,
        outline: Cache,  # of the store, by `outline`
        pool_bytes: int,  # bytes of RAM
        batch_size: int = 256,
        seed: int = 0,
        episodes: Sequence[int] | np.ndarray | None = None,  # numbers in the outline (default: all)
        labels: CacheLabels | None = None,  # of the outline's episodes
        **sampling: Any,  # what else ChunkSampler takes: horizon, n_obs_steps, offsets, gamma, device, ...
    ):
        self.batch_size, self.seed, self.pool_bytes = batch_size, seed, pool_bytes
        self._store, self._outline, self._labels, self._sampling = store, outline, labels, sampling
        whole = ChunkSampler(
            outline, batch_size=batch_size, episodes=episodes, labels=labels, **sampling | {"device": "cpu"}
        ).windows
        weight = None if whole.weight is None else whole.weight / whole.weight.mean()
        share = np.bincount(whole.episode, weight, len(whole.steps))  # legal starts of each episode, weighted
        drawn = np.flatnonzero(share)
        self._episodes = np.searchsorted(outline.step_start, whole.first_step[drawn])  # int64[E]
        self._share, self._starts = share[drawn].astype(np.float64), len(whole.episode)
        self._bytes = self._decoded_bytes(padding=len(whole.action) - int(whole.steps.sum()))
        largest = int(self._bytes.max())
        self._budget = (
            pool_bytes - 3 * largest
        ) // 2  # of one pool; an episode is packed, decoded and copied meanwhile
        if self._budget < largest:
            raise ValueError(
                f"pool_bytes: expected at least {5 * largest}, five times the longest episode, got {pool_bytes}"
            )
        self._offset = np.random.default_rng(seed).random()  # u
        self._thread = ThreadPoolExecutor(1)
        self._epoch: tuple[int, list[Plan]] = (-1, [])
        self._plan: Plan | None = None
        self._pool: ChunkSampler | None = None
        self._next: tuple[Plan, Future[ChunkSampler]] | None = None
        self._position = 0

    def __len__(self) -> int:
        """Legal starts of the whole dataset."""
        return self._starts

    def sample(self) -> ChunkBatch:
        if self._plan is None or not self._plan.first <= self._position < self._plan.last:
            self._turn_to(self._plan_of(self._position))
        self._position += 1
        return self._pool.sample()

    @property
    def pools(self) -> int:
        """Pools of the first epoch."""
        return len(list(self._plans(0)))

    def settle(self) -> None:
        """Wait until nothing is being decoded, e.g. to time something else."""
        if self._next:
            self._next[1].exception()

    def state(self) -> dict[str, int]:
        """JSON values; after `load_state` come exactly the batches that would have come here."""
        return {"position": self._position} | self._identity()

    def load_state(self, state: dict[str, int]) -> None:
        got = {key: state.get(key) for key in self._identity()}
        if got != self._identity():
            raise ValueError(f"sampler state: expected {self._identity()}, got {got}; same data and configuration?")
        self._position = state["position"]
        if self._plan and self._plan.first <= self._position < self._plan.last:
            self._seek()
        else:
            self._plan = None

    def _identity(self) -> dict[str, int]:
        identity = {"seed": self.seed, "starts": len(self), "batch_size": self.batch_size}
        return identity | {"pool_bytes": self.pool_bytes}

    def _turn_to(self, plan: Plan) -> None:
        """Use the pool of `plan`, and begin to decode the one after it."""
        self._plan, self._pool = None, None  # its memory is the next but one's
        if self._next is None or self._next[0] is not plan:
            self._drop_next()
            self._next = plan, self._thread.submit(self._load, plan)
        coming, self._next = self._next[1], None
        self._pool, self._plan = coming.result(), plan
        self._seek()
        after = self._plan_of(plan.last)
        self._next = after, self._thread.submit(self._load, after)

    def _drop_next(self) -> None:
        """Where a loaded state jumps: never a third pool beside the two."""
        if self._next and not self._next[1].cancel():
            self._next[1].exception()
        self._next = None

    def _seek(self) -> None:
        self._pool.load_state(self._pool.state() | {"position": self._position - self._plan.first})

    def _load(self, plan: Plan) -> ChunkSampler:
        cache = decode(self._store, self._outline, plan.episodes)
        labels = self._labels and _part(self._labels, self._outline, plan.episodes)
        return ChunkSampler(cache, batch_size=self.batch_size, seed=plan.seed, labels=labels, **self._sampling)

    def _plan_of(self, position: int) -> Plan:
        """The pool that batch `position` is drawn from."""
        epoch = int(position * self.batch_size / self._starts)
        while self._first(epoch + 1) <= position:
            epoch += 1
        while self._first(epoch) > position:
            epoch -= 1
        if self._epoch[0] != epoch:
            self._epoch = epoch, list(self._plans(epoch))
        return next(plan for plan in self._epoch[1] if plan.first <= position < plan.last)

    def _first(self, epoch: int, share: float = 0.0) -> int:
        """Number of the batch with which an epoch, or what comes after `share` starts of it, begins."""
        return int((epoch * self._starts + share) / self.batch_size + self._offset)

    def _plans(self, epoch: int) -> Iterator[Plan]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._episodes))
        ends = _cut(self._bytes[order], self._budget)
        shares = np.cumsum(self._share[order])[np.array(ends) - 1]
        batches = [self._first(epoch), *(self._first(epoch, share) for share in shares[:-1]), self._first(epoch + 1)]
        for p, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            seed = int(np.random.SeedSequence([self.seed, epoch, p]).generate_state(1, np.uint64)[0])
            yield Plan(batches[p], batches[p + 1], self._episodes[order[start:end]], seed)

    def _decoded_bytes(self, padding: int) -> np.ndarray:
        """int64[E], what each episode takes in a pool, at most; padding: padded steps of all."""
        spec, steps, frames = (
            self._store.spec,
            *(t[self._episodes] for t in (self._outline.steps, self._outline.frames)),
        )
        frame = 4 * spec.state_dim + sum(c.height * c.width * 3 for c in spec.cameras) + PER_STEP
        padded = steps + -(-padding // len(self._episodes))
        return frames * frame + steps * 4 * spec.action_dim + padded * (4 * spec.action_dim + PER_STEP)


def outline(store: EpisodeStore) -> Cache:
    """The store's tables and rewards without states, actions and images: what can be drawn."""
    names = tuple(store.names())
    manifests = [store.manifest(name) for name in names]
    about = [store.about(name) for name in names]
    tasks = list(dict.fromkeys(each["task"] for each in about))
    steps = np.array([manifest.steps for manifest in manifests], np.int64)
    frames = np.array([manifest.frames for manifest in manifests], np.int64)
    rewards = [store.read(name, images=False, decisions=False).rewards for name in names]
    return Cache(
        path=store.path,
        spec=store.spec,
        names=names,
        hashes=tuple(manifest.hash for manifest in manifests),
        tasks=tuple(tasks),
        state=np.broadcast_to(np.float32(0), (frames.sum(), 1)),
        images={},
        action=np.empty((steps.sum(), 0), np.float32),
        reward=np.concatenate([np.empty(0, np.float32), *rewards]),
        source=np.zeros(steps.sum(), np.uint8),
        steps=steps,
        frames=frames,
        terminated=np.array([each["terminated"] for each in about], bool),
        truncated=np.array([each["truncated"] for each in about], bool),
        success=np.array([np.nan if each["success"] is None else each["success"] for each in about], np.float32),
        task=np.array([tasks.index(each["task"]) for each in about], np.int64),
    )


def decode(store: EpisodeStore, known: Cache, chosen: np.ndarray) -> Cache:
    """A pool: the chosen episodes of the outline, whole, in RAM; one at a time is held beside it."""
    spec, steps, frames = store.spec, known.steps[chosen], known.frames[chosen]
    pool = replace(
        known,
        names=tuple(known.names[e] for e in chosen),
        hashes=tuple(known.hashes[e] for e in chosen),
        state=np.empty((frames.sum(), spec.state_dim), np.float32),
        images={c.name: np.empty((frames.sum(), c.height, c.width, 3), np.uint8) for c in spec.cameras},
        action=np.empty((steps.sum(), spec.action_dim), np.float32),
        reward=np.empty(steps.sum(), np.float32),
        source=np.zeros(steps.sum(), np.uint8),
        **{table: getattr(known, table)[chosen] for table in ("terminated", "truncated", "success", "task")},
        steps=steps,
        frames=frames,
    )
    for name, step, frame in zip(pool.names, pool.step_start, pool.frame_start, strict=True):
        episode = store.read(name, decisions=False)
        pool.state[frame : frame + len(episode.states)] = episode.states
        for camera, image in episode.images.items():
            pool.images[camera][frame : frame + len(image)] = image
        pool.action[step : step + len(episode)] = episode.actions
        pool.reward[step : step + len(episode)] = episode.rewards
        if episode.source is not None:
            pool.source[step : step + len(episode)] = episode.source
    return pool


def _part(labels: CacheLabels, known: Cache, chosen: np.ndarray) -> CacheLabels:
    """The labels of the chosen episodes."""
    rows = np.concatenate([np.arange(known.steps[e]) + known.step_start[e] for e in chosen])
    each = {name: getattr(labels, name) for name in ("reward", "weight", "mc_return")}
    return replace(
        labels,
        terminated=labels.terminated[chosen],
        success=labels.success[chosen],
        **{name: values if values is None else values[rows] for name, values in each.items()},
    )


def _cut(sizes: np.ndarray, budget: int) -> list[int]:
    """Ends of the longest runs, one after the other, whose sizes sum to at most `budget`."""
    ends, held = [], 0
    for i, size in enumerate(sizes.tolist()):
        if held and held + size > budget:
            ends.append(i)
            held = 0
        held += size
    return [*ends, len(sizes)]
