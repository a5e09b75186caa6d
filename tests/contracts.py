"""Checks that any component must pass, ours or yours: call them from a test of your own component.

    from contracts import check_selector
    def test_my_selector_keeps_the_contract():
        check_selector(my_selector.Config().build())

Every check raises AssertionError with one line that says what was expected. Equality across batch shapes is to 1e-5 of
the action's range; at equal batch shape it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from robot_value import randomness
from robot_value.steering.followers import plain
from robot_value.steering.selection import scored
from robot_value.types import Decision, Observation, Outcome, Scores, Selection, Situation, Spec

TOLERANCE = 1e-5


# Selectors and gates ------------------------------------------------------------------------------------------------


def candidates(spec: Spec, batch: int, n: int, seed: int, bad: float = 0.0) -> tuple[torch.Tensor, Scores, Situation]:
    """Random candidates in the limits with random scores; a share `bad` of each is NaN or infinite.

    The named scores risk and count are random too, and the situation's critic has a slope to climb.
    """
    rng = np.random.default_rng(seed)
    chunks = rng.uniform(spec.low, spec.high, (batch, n, spec.horizon, spec.action_dim)).astype(np.float32)
    value, spread = rng.standard_normal((2, batch, n)).astype(np.float32)
    poison = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), (3, batch, n))
    hit = rng.random((3, batch, n)) < bad
    chunks[hit[0], -1, 0] = poison[0][hit[0]]
    value, spread = np.where(hit[1], poison[1], value), np.where(hit[2], poison[2], np.abs(spread))
    chunks, value, spread = (torch.from_numpy(array) for array in (chunks, value, spread))
    finite = chunks.isfinite().flatten(2).all(2)
    scored = torch.from_numpy(rng.random((batch, n)) >= bad / 4)
    risk, count = torch.from_numpy(rng.standard_normal((2, batch, n)).astype(np.float32))
    scores = Scores(value, spread, scored, {"risk": risk, "count": count})
    return chunks, scores, situation(spec, finite, seed, slope=1.0)


@dataclass(frozen=True)
class Slope:
    """A critic whose value rises by `slope` with every executed number."""

    spec: Spec
    scope: int
    slope: float

    def score(self, context: Any, chunks: torch.Tensor, lengths: torch.Tensor) -> Scores:
        value = self.slope * chunks[:, :, : self.scope].sum((2, 3))
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


def situation(spec: Spec, finite: torch.Tensor, seed: int = 0, slope: float = 0.0) -> Situation:
    rows, execute = np.arange(len(finite)), max(1, spec.horizon // 2)
    generators = randomness.generators(seed, rows, np.zeros_like(rows), "select")
    return Situation(generators, finite, spec=spec, execute=execute, critic=Slope(spec, execute, slope))


def check_selector(selector: Any, spec: Spec, batch: int = 5, n: int = 7, trials: int = 20) -> None:
    """Shapes and weights; non-finite never selected; same input, same answer; rows do not see each other."""
    assert isinstance(selector.uses_critic, bool), "uses_critic: expected True or False"
    for seed in range(trials):
        given = candidates(spec, batch, n, seed, bad=0.3 if seed % 2 else 0.0)
        before = given[0].clone()
        selection = selector(*given)
        assert given[0].equal(before) or given[0].isnan().any(), "a selector must not change its candidates"
        _check_selection(selector, selection, *given)
        again = selector(*given[:2], situation(spec, given[2].finite, seed, slope=1.0))
        assert selection.index.equal(again.index), "expected the same choice from the same input and generators"
        assert torch.allclose(selection.chunk, again.chunk, equal_nan=True), "expected the same chunk again"
        _check_selector_rows(selector, selection, *given, spec=spec, seed=seed)


def _check_selection(selector: Any, selection: Selection, chunks: torch.Tensor, scores: Scores, at: Situation) -> None:
    batch, n = chunks.shape[:2]
    assert selection.index.dtype == torch.int64 and selection.index.shape == (batch,), "index: expected int64[B]"
    assert selection.chunk.shape == (batch, *chunks.shape[2:]), "chunk: expected [B, H, A]"
    assert selection.weights.shape == (batch, n), "weights: expected [B, N]"
    assert ((selection.index >= -1) & (selection.index < n)).all(), "index: expected -1 (new chunk) to N - 1"
    usable = scored(scores, at) if selector.uses_critic else at.finite
    for row in torch.nonzero(usable.any(1)).flatten().tolist():  # without a usable candidate the Steerer falls back
        index, weights = int(selection.index[row]), selection.weights[row]
        assert index < 0 or usable[row, index], f"selected candidate {index} is not finite, or its score is not"
        assert selection.chunk[row].isfinite().all(), "chunk: expected finite numbers from finite candidates"
        assert index < 0 or selection.chunk[row].equal(chunks[row, index]), "chunk: expected the selected candidate"
        assert (weights >= 0).all() and abs(float(weights.sum()) - 1) < TOLERANCE, "weights: expected a distribution"
        assert not weights[~usable[row]].any(), "weights: expected 0 on candidates that may not be used"


def _check_selector_rows(
    selector: Any, whole: Selection, chunks: torch.Tensor, scores: Scores, at: Situation, *, spec: Spec, seed: int
) -> None:
    row = slice(1, 2)
    generators = situation(spec, at.finite, seed).generators[row]
    alone = selector(
        chunks[row],
        Scores(
            scores.value[row],
            scores.spread[row],
            scores.scored[row],
            {name: score[row] for name, score in scores.named.items()},
        ),
        replace(at, generators=generators, finite=at.finite[row]),
    )
    usable = scored(scores, at) if selector.uses_critic else at.finite
    if usable[row].any():
        assert whole.index[row].equal(alone.index), "a robot's choice must not depend on the other robots"
        assert torch.allclose(whole.chunk[row], alone.chunk, atol=TOLERANCE), "nor must its chunk"


def check_gate(gate: Any, spec: Spec, batch: int = 5, n: int = 7) -> None:
    """bool[B] and a reason, also where nothing has a score."""
    for bad in (0.0, 0.5):
        chunks, scores, at = candidates(spec, batch, n, seed=3, bad=bad)
        unscored = Scores(scores.value * torch.nan, scores.spread * torch.nan, torch.zeros_like(scores.scored))
        zeros = torch.zeros(batch, dtype=torch.int64)
        selection = Selection(zeros, chunks[:, 0], torch.eye(n)[zeros])
        for given in (scores, unscored):
            use, why_not = gate(chunks, given, selection, at)
            assert isinstance(use, np.ndarray) and use.dtype == bool and use.shape == (batch,), "expected bool[B]"
            assert isinstance(why_not, str) and why_not, "expected the reason where the selection is not used"


# Followers ----------------------------------------------------------------------------------------------------------


def decision_of(chunk: np.ndarray, observation: Observation, execute: int | None = None) -> Decision:
    """A decision that says `chunk` float32[B, H, A] and nothing else."""
    batch, horizon, action_dim = chunk.shape
    return Decision(
        chunk=chunk,
        execute=np.full(batch, execute or horizon),
        start_step=observation.step + observation.committed,
        reason=("chosen",) * batch,
        index=np.full(batch, -1),
        candidates=np.zeros((batch, 0, horizon, action_dim), np.float32),
        value=np.zeros((batch, 0), np.float32),
        spread=np.zeros((batch, 0), np.float32),
    )


def check_follower(follower: Any, spec: Spec, observation: Observation) -> None:
    """float32[B, A] inside the limits at every step of a chunk, each robot at its own offset."""
    if hasattr(follower, "check"):
        follower.check(spec)
    batch = observation.batch_size
    rng = np.random.default_rng(0)
    chunk = rng.uniform(spec.low, spec.high, (batch, spec.horizon, spec.action_dim)).astype(np.float32)
    decision = decision_of(chunk, observation)
    for offset in range(spec.horizon):
        action = follower.action(observation, decision, (np.arange(batch) + offset) % spec.horizon)
        assert action.dtype == np.float32 and action.shape == (batch, spec.action_dim), "expected float32[B, A]"
        assert (action >= spec.low).all() and (action <= spec.high).all(), "expected actions inside the spec's limits"


# Policies and critics -----------------------------------------------------------------------------------------------


def noise(spec: Spec, observation: Observation, n: int, seed: int = 0) -> torch.Tensor:
    shape = (n, spec.horizon, spec.action_dim)
    return torch.from_numpy(randomness.normal(seed, observation.episode, observation.step, shape))


def check_policy(policy: Any, observation: Observation, n: int = 8) -> None:
    """Shapes, limits, keyed noise (candidate 0 is the plain policy), independent rows, contexts, prefixes."""
    spec = policy.spec
    batch, draws = observation.batch_size, noise(spec, observation, n)
    context = policy.encode(observation)
    chunks, lengths = policy.sample(context, n, draws)
    assert chunks.shape == (batch, n, spec.horizon, spec.action_dim), "chunks: expected [B, n, H, A]"
    assert chunks.dtype == torch.float32 and not chunks.requires_grad, "chunks: expected float32 without a graph"
    assert lengths.shape == (batch, n) and lengths.dtype == torch.int64, "lengths: expected int64[B, n]"
    assert ((lengths >= 1) & (lengths <= spec.horizon)).all(), "lengths: expected 1 to H"
    assert chunks.isfinite().all(), "chunks: expected finite numbers from a finite observation"
    assert policy.sample(context, n, draws)[0].equal(chunks), "expected the same chunks from the same noise"
    _same(policy.sample(context, 1, draws[:, :1])[0], chunks[:, :1], spec, "candidate 0 must not depend on N")
    other = policy.sample(context, n, noise(spec, observation, n, seed=1))[0]
    assert not torch.allclose(other, chunks), "expected other chunks from other noise"
    rows = np.arange(batch) == batch - 1
    alone = policy.encode(observation.rows(rows))
    _same(policy.sample(alone, n, draws[rows])[0], chunks[rows], spec, "a robot's chunks must not depend on others")
    selected = context.select(torch.from_numpy(rows))
    _same(policy.sample(selected, n, draws[rows])[0], chunks[rows], spec, "context.select must keep a row's meaning")
    _same(policy.sample(context.repeat(2), n, draws.repeat_interleave(2, 0))[0][::2], chunks, spec, "so must repeat")
    if spec.horizon > 1:
        prefix = other[:, 0, : spec.horizon // 2]
        continued, _ = policy.sample(context, n, draws, prefix=prefix)
        begun = continued[:, :, : prefix.shape[1]]
        _same(begun, prefix[:, None].expand_as(begun), spec, "a chunk must begin with the prefix", 1e-4)


def check_critic(critic: Any, observation: Observation, n: int = 6) -> None:
    """Shapes; scores depend on the first `scope` steps of their own candidate and robot, and on nothing else."""
    spec, batch = critic.spec, observation.batch_size
    assert 1 <= critic.scope <= spec.horizon, "scope: expected 1 to H"
    chunks, _, _ = candidates(spec, batch, n, seed=0)
    lengths = torch.full((batch, n), spec.horizon)
    context = critic.encode(observation)
    with torch.no_grad():
        scores = critic.score(context, chunks, lengths)
        for name in ("value", "spread", "scored"):
            assert getattr(scores, name).shape == (batch, n), f"{name}: expected [B, N]"
        assert scores.scored.dtype == torch.bool and scores.scored.all(), "scored: expected True without a deadline"
        assert scores.value.isfinite().all() and (scores.spread >= 0).all(), "expected finite values, spread >= 0"
        other = chunks.clone()
        other[:, :, critic.scope :] = chunks.flip(1)[:, :, critic.scope :]
        beyond = critic.score(context, other, lengths)
        assert beyond.value.equal(scores.value), "steps beyond the scope must not matter"
        turned = critic.score(context, chunks.flip(1), lengths)
        _close(turned.value.flip(1), scores.value, "a score must not depend on a candidate's place")
        assert not torch.allclose(turned.value, scores.value), "expected scores to depend on the chunk"
        rows = np.arange(batch) == batch - 1
        alone = critic.score(critic.encode(observation.rows(rows)), chunks[rows], lengths[rows])
        _close(alone.value, scores.value[rows], "a score must not depend on the other robots")
        broken = chunks.clone()
        broken[:, 1] = torch.nan
        rest = [i for i in range(n) if i != 1]
        spoiled = critic.score(context, broken, lengths)
        _close(spoiled.value[:, rest], scores.value[:, rest], "one NaN candidate must not reach the others")


def _same(got: torch.Tensor, expected: torch.Tensor, spec: Spec, why: str, tolerance: float = TOLERANCE) -> None:
    span = torch.from_numpy(spec.high - spec.low)
    assert ((got - expected).abs() <= tolerance * span).all(), why


def _close(got: torch.Tensor, expected: torch.Tensor, why: str) -> None:
    assert torch.allclose(got, expected, rtol=1e-4, atol=TOLERANCE), why


# Robots -------------------------------------------------------------------------------------------------------------


def check_robot(robot: Any, seeds: Sequence[int], execute: int = 4, max_decisions: int = 1000) -> None:
    """Resets, control-rate outcomes, history at control rate, padding, and that an episode ends and then rests."""
    batch = robot.batch_size
    assert len(seeds) == batch, f"give one seed per robot ({batch})"
    observation = robot.reset([""] * batch, list(seeds))
    again = robot.reset([""] * batch, list(seeds))
    assert np.array_equal(observation.state, again.state), "the same seeds must give the same start"
    assert observation.episode.tolist() == list(seeds) and not observation.step.any(), "episode: the seed, step: 0"
    history = observation.state.copy()  # float32[B, O, S], kept by this check alone
    _check_rest(robot, observation)
    done = np.zeros(batch, bool)
    kept: list[tuple[Outcome, np.ndarray]] = []
    for _ in range(max_decisions):
        observation.check(robot.spec)
        middle = np.broadcast_to((robot.spec.low + robot.spec.high) / 2, (batch, 2 * execute, robot.spec.action_dim))
        decision = decision_of(middle.astype(np.float32), observation, execute)
        outcome = robot.execute(decision, plain.Config().build())
        _check_outcome(outcome, robot.spec, observation, done)
        history = _stacked(history, outcome)
        live = ~done & ~outcome.done
        assert np.array_equal(outcome.observation.state[live], history[live]), "history: stacked at control rate"
        kept = [*kept[-1:], (outcome, outcome.states.copy())]
        for earlier, states in kept:
            assert np.array_equal(earlier.states, states), "an outcome's arrays must not change afterwards"
        observation, done = outcome.observation, done | outcome.done
        if done.all():
            return
    raise AssertionError(f"expected every episode to end within {max_decisions} decisions")


def _check_rest(robot: Any, observation: Observation) -> None:
    still = decision_of(np.zeros((robot.batch_size, 1, robot.spec.action_dim), np.float32), observation)
    rested = robot.execute(replace(still, execute=np.zeros_like(still.execute)), plain.Config().build())
    assert not rested.executed_valid.any(), "a robot that is told to execute 0 steps stays as it is"
    assert np.array_equal(rested.observation.state, observation.state), "and sees what it saw"


def _check_outcome(outcome: Outcome, spec: Spec, before: Observation, done: np.ndarray) -> None:
    batch, k = outcome.executed_valid.shape
    shapes = {"states": (batch, k, spec.state_dim), "executed": (batch, k, spec.action_dim), "rewards": (batch, k)}
    for name, shape in shapes.items():
        array = getattr(outcome, name)
        assert array.shape == shape and array.dtype == np.float32, f"{name}: expected float32{list(shape)}"
    for name in ("terminated", "truncated", "success", "unstable"):
        array = getattr(outcome, name)
        assert array.shape == (batch,) and array.dtype == bool, f"{name}: expected bool[B]"
    steps = outcome.executed_valid.sum(1)
    assert np.array_equal(outcome.executed_valid, np.arange(k) < steps[:, None]), "padding comes after executed steps"
    assert not steps[done].any(), "a robot that is done stays as it is"
    assert (steps[~done] > 0).all(), "a robot that is not done executes at least one step"
    assert np.array_equal(outcome.observation.step, before.step + steps), "step: counts executed control steps"
    assert (outcome.done | ~done).all(), "done: once done, always done until reset"


def _stacked(history: np.ndarray, outcome: Outcome) -> np.ndarray:
    """The last O states of each row, oldest first."""
    rows = [
        np.concatenate([past, new[valid]])[-len(past) :]
        for past, new, valid in zip(history, outcome.states, outcome.executed_valid, strict=True)
    ]
    return np.stack(rows)
