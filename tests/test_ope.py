"""Support of a policy's chunks in a log, the whole evaluation, and watching a log more often than one decides."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import fakes
import numpy as np
import pytest
from recorded import make_episode
from replayed import synthetic

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from ope_toys import LADDER, ladder

from robot_value.ope import estimate, fqe
from robot_value.ope.chunks import Target
from robot_value.ope.support import findings, nearest, neighbours, support
from robot_value.replay import plots_ope
from robot_value.steering.steerer import Steerer
from robot_value.types import Episode

TINY = fqe.Config(members=3, hidden=(16,), steps=30, batch_size=64)


def planned(seed: int = 0, shift: float = 0.0, share: float = 1.0):
    """A log whose chunks follow from the state, and a policy that does the same up to a `shift` of some decisions."""
    base, rng = synthetic(episodes=30, seed=seed), np.random.default_rng(seed)
    span, shape = base.spec.high - base.spec.low, base.logged.shape
    plan = 0.5 * np.tanh(base.columns["state"][:, :1, None])
    logged, chosen = (base.spec.low + span * (0.5 + 0.3 * plan + rng.normal(0, 0.02, shape)) for _ in range(2))
    moved = (rng.random(len(base)) < share)[:, None, None]
    chosen = chosen + shift * span * moved
    return replace(base, logged=logged.astype(np.float32), chosen=chosen.astype(np.float32)), moved[:, 0, 0]


def test_a_policy_like_the_logs_own_has_the_support_it_was_promised() -> None:
    replayed, _ = planned()
    found = support(replayed, fqe.features(replayed, 0))
    assert found.share.low <= 0.95 <= found.share.high + 0.02  # mutation: the radius is a median
    assert not found.missing and not findings(replayed, found)


def test_chunks_that_nobody_made_in_like_states_have_none_and_the_page_is_told_where() -> None:
    replayed, moved = planned(shift=0.5, share=0.6)
    found = support(replayed, fqe.features(replayed, 0))
    assert found.near[moved].mean() < 0.02 < 0.9 < found.near[~moved].mean()
    (finding,) = findings(replayed, found)
    worst = finding.episodes[0]
    number = [e.name for e in replayed.episodes].index(worst)
    assert found.by_episode[number] == np.nanmin(found.by_episode)  # mutation: best first
    assert found.to_json()["missing"]


def test_what_was_done_in_other_states_is_no_support() -> None:
    """Every chunk is one that the log knows, but from the opposite state."""
    replayed, _ = planned()
    order = np.argsort(replayed.columns["state"][:, 0])
    swapped = np.empty_like(replayed.logged)
    swapped[order] = replayed.logged[order[::-1]]
    found = support(replace(replayed, chosen=swapped), fqe.features(replayed, 0))
    assert found.share.mean < 0.75  # mutation: neighbours of any state


def test_neighbours_and_nearest_are_what_brute_force_finds() -> None:
    rng = np.random.default_rng(0)
    seen, chunks, logged = rng.normal(size=(60, 3)), rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
    episode = np.repeat(np.arange(6), 10)
    like = neighbours(seen, episode, block=7)
    for d in range(60):
        others = np.flatnonzero(episode != episode[d])
        closest = others[np.argsort(((seen[others] - seen[d]) ** 2).sum(1))[: like.shape[1]]]
        assert set(like[d]) == set(closest)  # mutation: its own episode is a neighbour
        expected = np.sqrt(((logged[closest] - chunks[d]) ** 2).mean(1)).min()
        assert nearest(chunks, logged, like)[d] == pytest.approx(expected)


def test_few_states_have_fewer_neighbours_and_a_single_episode_none() -> None:
    like = neighbours(np.zeros((3, 1)), np.array([0, 0, 1]))
    assert sorted(like[2]) == [0, 1] and sorted(like[0]) == [-1, 2]
    alone = synthetic(episodes=1)
    with pytest.raises(ValueError, match="at least 2 episodes"):
        support(alone, fqe.features(alone, 0))


def test_where_densities_are_known_every_estimator_speaks_and_agrees() -> None:
    toy = ladder(400, mu=(0.5, 0.6), pi=(0.7, 0.7))
    result = estimate.evaluate(toy.replayed, LADDER, replace(TINY, steps=300, lr=5e-3, tau=0.05), toy.log_ratio)
    assert [each.method for each in result.estimates] == ["fqe", "importance", "doubly_robust", "bound"]
    for each in result.estimates:
        assert each.low <= each.value <= each.high
        assert abs(each.value - toy.truth) < 0.15
    assert result.estimate("doubly_robust").effective > 10
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["support"]["decisions"] == len(toy.replayed)


def test_without_densities_there_is_fitted_q_alone() -> None:
    toy = ladder(20)
    assert [each.method for each in estimate.evaluate(toy.replayed, LADDER, TINY).estimates] == ["fqe"]


def test_reweighting_is_refused_where_a_few_episodes_would_decide() -> None:
    toy = ladder(40)
    few = np.random.default_rng(0).normal(0, 5, len(toy.replayed))
    result = estimate.evaluate(toy.replayed, LADDER, TINY, few)
    for method in ("importance", "doubly_robust"):
        refused = result.estimate(method)
        assert np.isnan(refused.value) and refused.effective < 10  # mutation: no bound
        assert "effective sample size" in refused.note
        assert refused.to_json()["value"] is None


def test_a_bound_is_given_for_known_densities_only() -> None:
    toy = ladder(60, mu=(0.6, 0.6), pi=(0.65, 0.65))
    result = estimate.evaluate(toy.replayed, LADDER, TINY, toy.log_ratio, estimated=True)
    assert [each.method for each in result.estimates] == ["fqe", "importance", "doubly_robust"]  # mutation: a bound
    assert "kernel" in result.estimate("importance").note


def test_an_estimate_without_support_says_that_it_extrapolates() -> None:
    replayed, _ = planned(shift=0.8)
    result = estimate.evaluate(replayed, Target(limit=24), TINY)
    assert result.estimate("fqe").note == "extrapolates" and len(result.findings) == 1
    replayed, _ = planned()
    assert estimate.evaluate(replayed, Target(limit=24), TINY).estimate("fqe").note == ""


def test_the_logs_own_policy_is_counted() -> None:
    found = estimate.on_policy(synthetic(episodes=20, success=0.6))
    assert found.value == 0.6 and found.episodes == 20 and found.low < 0.4


@dataclass(frozen=True)
class Log:
    """Episodes in memory."""

    episodes: tuple[Episode, ...]

    @property
    def spec(self):
        return self.episodes[0].spec

    def names(self) -> list[str]:
        return [str(i) for i in range(len(self.episodes))]

    def read(self, name: str) -> Episode:
        return self.episodes[int(name)]


def point_log() -> Log:
    rng = np.random.default_rng(0)
    spec = fakes.point_spec(horizon=0, n_obs_steps=0)
    return Log(tuple(make_episode(spec, steps, int(rng.integers(99)), decisions=2) for steps in (7, 8, 3)))


def test_a_log_is_watched_more_often_than_its_recorder_decided() -> None:
    steerer = Steerer(fakes.HomingPolicy(fakes.point_spec(horizon=4)), n=1)
    replayed = estimate.watch(point_log(), steerer, every=2, batch_size=2)
    steps = [replayed.step[replayed.rows(e)].tolist() for e in range(3)]
    assert steps == [[0, 2, 4, 6], [0, 2, 4, 6], [0, 2]]  # mutation: the recorder's steps, or every 4
    assert replayed.execute == 4 and replayed.columns["features"].shape[0] == len(replayed)


def test_what_a_policy_sees_is_kept_as_it_decides_by_it() -> None:
    policy = fakes.HomingPolicy(fakes.point_spec(horizon=4))
    replayed = estimate.watch(point_log(), Steerer(policy, n=1))
    first = point_log().episodes[0]
    observed = fakes.observation(policy.spec, batch=1, state=np.repeat(first.states[:1][None], 2, 1))
    np.testing.assert_allclose(replayed.columns["features"][0], policy.encode(observed).value.flatten().numpy())
    assert replayed.step[replayed.rows(1)].tolist() == [0, 4]


def test_watching_at_steps_that_do_not_meet_the_chunks_ends_is_refused() -> None:
    steerer = Steerer(fakes.HomingPolicy(fakes.point_spec(horizon=4)), n=1)
    with pytest.raises(ValueError, match="expected a part of the 4 steps"):
        estimate.watch(point_log(), steerer, every=3)


def test_figures_show_what_was_given_and_say_what_was_refused() -> None:
    toy = ladder(40)
    few = np.random.default_rng(0).normal(0, 5, len(toy.replayed))
    (_, lines, caption), (_, histogram, about) = plots_ope.figures(estimate.evaluate(toy.replayed, LADDER, TINY, few))
    assert "fqe" in lines and "doubly robust" not in lines  # mutation: a dot at NaN
    assert "Refused: importance: effective sample size" in caption
    assert histogram.startswith("<svg") and "95%" in about
