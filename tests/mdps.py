"""Problems whose values can be written down, and what each backup makes of them: answers in plain Python loops.

A tabular problem is deterministic with actions -1 and +1 (the lower and upper limits of every action dim). Its data are
all action sequences from all states, cut by termination or by a time limit, so that chunks end inside in both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from statistics import fmean
from typing import Any

import numpy as np
import torch
from learning_fakes import spec as make_spec
from learning_fakes import statistics as make_statistics

from robot_value.critics.chunk_critic import ChunkCritic
from robot_value.normalize import Statistics
from robot_value.sampling import ChunkBatch, TensorObservation
from robot_value.types import ActionPart, Features, Spec

Chunk = tuple[int, ...]
Key = tuple[int, Chunk]  # state, actions


@dataclass(frozen=True)
class Problem:
    states: int  # that do not terminate; the terminal one is number `states`
    step: Callable[[int, int], tuple[int, float, bool]]  # (state, action) -> (next state, reward, terminated)
    k: int  # steps in a chunk
    limit: int  # steps in an episode of the data
    gamma: float


def _two_states(s: int, a: int) -> tuple[int, float, bool]:
    """0 -(+)-> 1 -(+)-> the end with reward 1; - stays in 0, and from 1 falls back to 0 for 0.2."""
    if s == 0:
        return (1, 0.0, False) if a > 0 else (0, 0.0, False)
    return (2, 1.0, True) if a > 0 else (0, 0.2, False)


def _chain(s: int, a: int) -> tuple[int, float, bool]:
    """Three places in a row, a step costs 0.1; off the right end for 1, off the left end for -0.5."""
    s += a
    return (3, -0.5, True) if s < 0 else (3, 1.0, True) if s > 2 else (s, -0.1, False)


TWO_STATES = Problem(2, _two_states, k=2, limit=4, gamma=0.9)
CHAIN = Problem(3, _chain, k=3, limit=4, gamma=0.9)


@dataclass(frozen=True)
class Row:
    """A window of the data: what a step at time t of an episode sees."""

    state: int
    chunk: Chunk  # H actions, the last one repeated past the end
    later: tuple[float, ...]  # all rewards from t to the episode's end
    states: tuple[int, ...]  # from t to the episode's end, one more than rewards
    terminated: bool  # the episode, at its end
    following: Callable[[int], Chunk]  # the chunk that was recorded k steps later

    def target(self, k: int, gamma: float, value: Callable[[int], float]) -> float:
        """Step by step: rewards until k steps or the end, then the value of where that was, if it goes on there."""
        total, taken = 0.0, min(k, len(self.later))
        for i in range(taken):
            total += gamma**i * self.later[i]
        over = self.terminated and taken == len(self.later)
        return total if over else total + gamma**taken * value(self.states[taken])


def rows(problem: Problem) -> list[Row]:
    episodes = set()
    for start, actions in product(range(problem.states), product((-1, 1), repeat=problem.limit)):
        s, states, taken, rewards, over = start, [start], [], [], False
        for a in actions:
            s, reward, over = problem.step(s, a)
            states.append(s), taken.append(a), rewards.append(reward)
            if over:
                break
        episodes.add((tuple(states), tuple(taken), tuple(rewards), over))
    return [_row(problem, t, *episode) for episode in sorted(episodes) for t in range(len(episode[1]))]


def _row(problem: Problem, t: int, states: Chunk, actions: Chunk, rewards: tuple[float, ...], over: bool) -> Row:
    def chunk(start: int) -> Chunk:
        return tuple(actions[min(start + i, len(actions) - 1)] for i in range(problem.k))

    return Row(states[t], chunk(t), rewards[t:], states[t:], over, lambda k: chunk(t + k))


# What every backup should find: iterate the definition on a table -----------------------------------------------------

SWEEPS = 80  # gamma^2 per sweep: 1e-7 is left


def expectile(values: Sequence[float], tau: float) -> float:
    """Bisection on tau sum (q - v)+ = (1 - tau) sum (v - q)+."""
    low, high = min(values), max(values)
    for _ in range(40):
        v = (low + high) / 2
        up, down = sum(max(q - v, 0) for q in values), sum(max(v - q, 0) for q in values)
        low, high = (v, high) if tau * up > (1 - tau) * down else (low, v)
    return (low + high) / 2


def quantile(values: Sequence[float], kappa: float) -> float:
    return sorted(values)[int(kappa * len(values))]


def expected_max(values: Sequence[float], subset: int) -> float:
    return fmean(max(chosen) for chosen in combinations(values, subset))


def grouped(pairs: Iterable[tuple[Any, float]]) -> dict[Any, list[float]]:
    groups: dict[Any, list[float]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def mean_by_key(pairs: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    return {key: fmean(values) for key, values in grouped(pairs).items()}


def implicit_values(
    problem: Problem, of: Callable[[Sequence[float]], float], scope: int | None = None, n: int | None = None
) -> dict[Key, float]:
    """Q of the first `scope` actions with V(s) = of(Q of the actions the data took in s), n-step returns."""
    data, k = rows(problem), scope or problem.k
    v = [0.0] * (problem.states + 1)
    for _ in range(SWEEPS):
        q = mean_by_key(((r.state, r.chunk[:k]), r.target(n or k, problem.gamma, v.__getitem__)) for r in data)
        for s, values in grouped((r.state, q[r.state, r.chunk[:k]]) for r in data).items():
            v[s] = of(values)
    return q


def supported_values(problem: Problem, of: Callable[[Sequence[float]], float]) -> dict[Key, float]:
    """Q with V(s) = of(Q of the chunks that the policy proposes)."""
    data, q, propose = rows(problem), {}, support(problem)

    def value(s: int) -> float:
        return of([q.get((s, chunk), 0.0) for chunk in propose[s]])

    for _ in range(SWEEPS):
        q = mean_by_key([((r.state, r.chunk), r.target(problem.k, problem.gamma, value)) for r in data])
    return q


def support(problem: Problem) -> list[list[Chunk]]:
    """What the policy proposes in every state: three chunks that the data have there."""
    seen = [sorted({r.chunk for r in rows(problem) if r.state == s}) for s in range(problem.states)]
    return [[chunks[0], chunks[len(chunks) // 2], chunks[-1]] for chunks in seen]


def sarsa_values(problem: Problem) -> dict[Key, float]:
    data, q, k = rows(problem), {}, problem.k

    def target(r: Row, q: dict[Key, float]) -> float:
        return r.target(k, problem.gamma, lambda s: q.get((s, r.following(k)), 0.0))

    for _ in range(SWEEPS):
        q = mean_by_key([((r.state, r.chunk), target(r, q)) for r in data])
    return q


def mc_values(problem: Problem) -> dict[Key, float]:
    return mean_by_key(
        ((r.state, r.chunk), sum(problem.gamma**i * x for i, x in enumerate(r.later))) for r in rows(problem)
    )


def option_values(problem: Problem, option: int, tau: float) -> dict[Key, float]:
    """V(s) = tau-expectile of the data's n-step targets, then one backup of k steps."""
    data, v = rows(problem), [0.0] * (problem.states + 1)
    for _ in range(SWEEPS):
        for s, t in grouped([(r.state, r.target(option, problem.gamma, v.__getitem__)) for r in data]).items():
            v[s] = expectile(t, tau)
    return mean_by_key(((r.state, r.chunk), r.target(problem.k, problem.gamma, v.__getitem__)) for r in data)


def decoupled_values(problem: Problem, scope: int, kappa_d: float, kappa_b: float) -> dict[Key, float]:
    """Partial Q = kappa_d-expectile of the chunk Qs that begin so; V = kappa_b-quantile of it."""
    data, v = rows(problem), [0.0] * (problem.states + 1)
    for _ in range(SWEEPS):
        whole = mean_by_key([((r.state, r.chunk), r.target(problem.k, problem.gamma, v.__getitem__)) for r in data])
        parts = grouped(((r.state, r.chunk[:scope]), whole[r.state, r.chunk]) for r in data)
        q = {key: expectile(values, kappa_d) for key, values in parts.items()}
        for s, values in grouped((r.state, q[r.state, r.chunk[:scope]]) for r in data).items():
            v[s] = quantile(values, kappa_b)
    return q


# The same data as tensors ---------------------------------------------------------------------------------------------


def tabular_spec(problem: Problem) -> Spec:
    return make_spec(horizon=problem.k, state=problem.states + 1)


def tabular_statistics(problem: Problem) -> dict[str, Statistics]:
    n = problem.states + 1
    of = make_statistics(tabular_spec(problem))
    return of | {"state": Statistics(np.zeros(n), np.full(n, 0.5), np.zeros(n), np.ones(n), 100)}


def chunk_tensor(spec: Spec, chunk: Chunk) -> torch.Tensor:
    """float32[k, A]"""
    low, high = torch.from_numpy(spec.low), torch.from_numpy(spec.high)
    return torch.stack([high if a > 0 else low for a in chunk])


def observed(problem: Problem, states: Sequence[int]) -> TensorObservation:
    one_hot = torch.eye(problem.states + 1)[list(states)]
    return TensorObservation(one_hot[:, None], {}, torch.zeros(len(states), dtype=torch.int64), ("",))


def tabular_batch(problem: Problem, offsets: Sequence[int] = ()) -> ChunkBatch:
    """Every window once."""
    data, spec, offsets = rows(problem), tabular_spec(problem), tuple(offsets) or (problem.k,)
    length = max(problem.k, *offsets)
    left = torch.tensor([len(r.later) for r in data])[:, None]
    ended = torch.tensor([r.terminated for r in data])[:, None]
    ahead = torch.arange(length)
    padded = [(*r.later, *(0.0,) * length)[:length] for r in data]
    return ChunkBatch(
        observation=observed(problem, [r.state for r in data]),
        chunks=torch.stack([chunk_tensor(spec, r.chunk) for r in data]),
        rewards=torch.tensor(padded),
        valid=ahead < left,
        terminated=ended & (ahead == left - 1),
        next={k: observed(problem, [r.states[min(k, len(r.later))] for r in data]) for k in offsets},
        mc_return=torch.tensor([sum(problem.gamma**i * x for i, x in enumerate(r.later)) for r in data]),
        weight=torch.ones(len(data)),
        success=torch.ones(len(data)),
        index=torch.arange(len(data)),
        next_chunks={k: torch.stack([chunk_tensor(spec, r.following(k)) for r in data]) for k in offsets},
    )


class Finite:
    """A policy that proposes chunks(states) [B, m, H, A] in order: n = m candidates are its exact distribution."""

    def __init__(self, spec: Spec, chunks: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.spec, self.chunks = spec, chunks

    def encoder(self, observation: TensorObservation) -> torch.Tensor:
        return observation.state.flatten(1)

    def sample(self, context: Any, n: int, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        table = self.chunks(context.value)
        chunks = table[:, torch.arange(n) % table.shape[1]]
        return chunks, torch.full(chunks.shape[:2], self.spec.horizon)


def tabular_policy(problem: Problem) -> Finite:
    spec = tabular_spec(problem)
    tables = [torch.stack([chunk_tensor(spec, chunk) for chunk in chunks]) for chunks in support(problem)]
    table = torch.stack([*tables, tables[0]])  # float32[S + 1, 3, k, A]; what is proposed at the end does not matter
    return Finite(spec, lambda states: table[states.argmax(-1)])


# Training on it, and how far off it is ------------------------------------------------------------------------------


def trained(critic: ChunkCritic, batch: ChunkBatch, policy: Finite, updates: int, seed: int = 0) -> ChunkCritic:
    """The learning rate falls to nothing: a quantile's gradient does not, so V would tremble at a constant one."""
    if critic.needs_policy:
        critic.attach(policy)
    generator, critic_rate = torch.Generator().manual_seed(seed), critic.config.lr
    critic.make_optimizer()
    for i in range(updates):
        critic.optimizer.param_groups[0]["lr"] = critic_rate * (1 - i / updates)
        critic.update(batch, generator)
    return critic


@torch.no_grad()
def scores(critic: ChunkCritic, seen: TensorObservation, chunks: torch.Tensor) -> list[float]:
    """chunks float32[B, H, A], spec units."""
    return critic.score(Features(critic.encoder(seen)), chunks[:, None]).value[:, 0].tolist()


def tabular_scores(config: Any, problem: Problem, keys: Iterable[Key], updates: int) -> dict[Key, float]:
    """What a critic says of the keys after training on every window of the problem."""
    critic, keys = config.build(tabular_spec(problem), tabular_statistics(problem)), list(keys)
    trained(critic, tabular_batch(problem, critic.offsets), tabular_policy(problem), updates)
    chunks = [chunk_tensor(critic.spec, (chunk + chunk[-1:] * problem.k)[: problem.k]) for _, chunk in keys]
    found = scores(critic, observed(problem, [s for s, _ in keys]), torch.stack(chunks))
    return dict(zip(keys, found, strict=True))


def distance(found: dict[Key, float], known: dict[Key, float]) -> float:
    return max(abs(found[key] - known[key]) for key in known)


def tabular_error(config: Any, problem: Problem, known: dict[Key, float], updates: int) -> float:
    return distance(tabular_scores(config, problem, known, updates), known)


# A linear-quadratic task: s' = A s + B u, r = -(Q s^2 + R u^2); every value is -p s^2 ---------------------------------


@dataclass(frozen=True)
class LinearQuadratic:
    a: float = 0.95
    b: float = 0.4
    q: float = 0.3
    r: float = 0.1
    gamma: float = 0.9
    k: int = 2  # steps in a chunk

    def riccati(self) -> tuple[float, float]:
        """(p, gain) of the optimal control u = -gain s, by iteration of the discounted Riccati equation."""
        p = 0.0
        for _ in range(1000):
            gain = self.gamma * p * self.a * self.b / (self.r + self.gamma * p * self.b**2)
            p = self.q + self.r * gain**2 + self.gamma * p * (self.a - self.b * gain) ** 2
        return p, gain

    def cost(self, gain: float, p: float, steps: int | None = None) -> float:
        """c of Q(s, chunk that follows the gain) = -c s^2 where -p s^2 comes after it."""
        phi, steps = self.a - self.b * gain, steps or self.k
        stage = sum(self.gamma**i * (self.q + self.r * gain**2) * phi ** (2 * i) for i in range(steps))
        return stage + self.gamma**steps * phi ** (2 * steps) * p

    def forever(self, gain: float) -> float:
        """p of following the gain for ever, closed form."""
        return (self.q + self.r * gain**2) / (1 - self.gamma * (self.a - self.b * gain) ** 2)

    def noise_cost(self, p: float, variance: float) -> float:
        """c of V(s) = -p s^2 - c where every chunk is played with independent noise on both forces (k = 2)."""
        first = self.r + self.gamma * self.q * self.b**2 + self.gamma**2 * p * (self.a * self.b) ** 2
        second = self.gamma * self.r + self.gamma**2 * p * self.b**2
        return variance * (first + second) / (1 - self.gamma**2)

    def fixed_point(self, gains: Sequence[float], of: Callable[[Sequence[float]], float]) -> list[float]:
        """Costs per gain where p = -of(-costs); values are quadratic, so one number per gain is all there is."""
        p = 0.0
        for _ in range(SWEEPS):
            costs = [self.cost(gain, p) for gain in gains]
            p = -of([-c for c in costs])
        return costs

    def rollout(
        self, states: torch.Tensor, gain: float, shift: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """states [B] -> chunk [B, k, 1] (planned with u = -gain s, then moved), rewards [B, k], last states [B]."""
        actions, rewards, s, planned = [], [], states, states
        for i in range(self.k):
            u = -gain * planned + (0.0 if shift is None else shift[:, i])
            actions.append(u), rewards.append(-(self.q * s**2 + self.r * u**2))
            s, planned = self.a * s + self.b * u, (self.a - self.b * gain) * planned
        return torch.stack(actions, 1)[..., None], torch.stack(rewards, 1), s

    def spec(self) -> Spec:
        force = ActionPart("force", 0, 1, "position", "N", (-2.0,), (2.0,))
        return replace(make_spec(horizon=self.k, state=1), parts=(force,))

    def statistics(self) -> dict[str, Statistics]:
        one, spec = np.ones(1), self.spec()
        state = Statistics(0 * one, 0.5 * one, -one, one, 100)
        return {"state": state, "action": Statistics(0 * one, one, spec.low, spec.high, 100)}

    def batch(self, gains: Sequence[float], states: int = 21, noise: float = 0.0) -> ChunkBatch:
        """Every gain from every state in [-1, 1], forces moved at random; what is recorded next follows the gain."""
        now = torch.linspace(-1, 1, states)
        shifts = noise * (2 * torch.rand((len(gains), states, self.k), generator=torch.Generator().manual_seed(0)) - 1)
        parts = [(gain, *self.rollout(now, gain, shift)) for gain, shift in zip(gains, shifts, strict=True)]
        n = states * len(gains)
        chunks, rewards, after = (torch.cat([part[i] for part in parts]) for i in (1, 2, 3))
        return ChunkBatch(
            observation=self.observed(now.repeat(len(gains))),
            chunks=chunks,
            rewards=rewards,
            valid=torch.ones(n, self.k, dtype=torch.bool),
            terminated=torch.zeros(n, self.k, dtype=torch.bool),
            next={self.k: self.observed(after)},
            mc_return=torch.cat([-self.forever(gain) * now**2 for gain in gains]),
            weight=torch.ones(n),
            success=torch.ones(n),
            index=torch.arange(n),
            next_chunks={self.k: torch.cat([self.rollout(last, gain)[0] for gain, _, _, last in parts])},
        )

    def observed(self, states: torch.Tensor) -> TensorObservation:
        return TensorObservation(states.view(-1, 1, 1), {}, torch.zeros(len(states), dtype=torch.int64), ("",))

    def policy(self, gains: Sequence[float]) -> Finite:
        return Finite(
            self.spec(), lambda states: torch.stack([self.rollout(states[:, 0], gain)[0] for gain in gains], 1)
        )
