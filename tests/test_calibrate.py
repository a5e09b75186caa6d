"""The learned abstention: the rule by brute force, its error rate by Monte Carlo, and a whole calibration played."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import product
from math import comb
from types import SimpleNamespace

import numpy as np
import proposer_fakes
import pytest
import torch
from evaluation_fakes import Counter, PushCritic, Wanderer
from fakes import FixedCritic, FixedPolicy, HomingCritic, HomingPolicy, PointMass, observation, point_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value import calibrate, components
from robot_value.evaluate import Arm, compare
from robot_value.playing import Models, Play, Site, Trained, waves
from robot_value.steering.abstention import ALWAYS, NEVER, Calibration, Choice, Setup, choose, lower_bound, thresholds
from robot_value.steering.confidence import confidence
from robot_value.steering.gates.calibrated import Calibrated
from robot_value.steering.gates.conformal import failure_score
from robot_value.steering.proposers import retrieval
from robot_value.steering.proposers.actor import Actor
from robot_value.steering.selection import average, pick, uniform
from robot_value.steering.setups import describe
from robot_value.steering.steerer import Steerer
from robot_value.types import Scores, Situation


def gate(**options):
    return components.load("gates", "calibrated").Config(**options).build()


def selector(name: str):
    return components.load("selectors", name).Config().build()


def outcomes(wins: int, losses: int, ties: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Plain and steered success with these many episodes that only one of them solved."""
    base = [False] * wins + [True] * losses + [True] * ties
    return np.array(base), np.array([True] * wins + [False] * losses + [True] * ties)


# The rule -----------------------------------------------------------------------------------------------------------


def heads(at_least: int, coins: int) -> float:
    """Chance of so many heads among fair coins, by counting."""
    return sum(comb(coins, count) for count in range(at_least, coins + 1)) / 2**coins


def test_the_bound_is_positive_exactly_where_so_many_fair_coins_would_rarely_fall_that_way():
    # mutation: beta.ppf(level, wins + 1, losses), or a normal approximation
    for wins, losses in product(range(9), range(5)):
        assert (lower_bound(wins, losses, 100, 0.05) > 0) == (heads(wins, wins + losses) < 0.05), (wins, losses)
    assert lower_bound(0, 0, 50, 0.05) == 0


def test_few_episodes_that_differ_give_no_confidence_however_good_they_look():
    base, better = outcomes(5, 0)
    assert choose(base, {ALWAYS: better}, margin=0).threshold == ALWAYS  # 1/32 < 0.05
    # mutation: alpha not split over the thresholds
    assert choose(base, {ALWAYS: better, 0.5: better}, margin=0).threshold == NEVER  # 1/32 > 0.05 / 2


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=4),
    st.floats(0.01, 0.3),
    st.sampled_from([0.0, 0.05, 0.2]),
)
def test_the_choice_is_the_lowest_threshold_that_is_as_good_as_the_best_of_the_able(counts, alpha, margin):
    # mutation: max over all trials, or by bound, or the largest gain whatever its error
    base = np.arange(40) >= 20
    steered, gains, able = {}, [], []
    for row, (wins, losses) in enumerate(counts):
        steered[float(row)] = base.copy()
        steered[float(row)][:wins], steered[float(row)][20 : 20 + losses] = True, False
        gains.append((steered[float(row)].astype(float) - base).mean())
        if gains[-1] > 0 and lower_bound(wins, losses, 40, alpha / len(counts)) > -margin:
            able.append(row)
    found = choose(base, steered, alpha, margin)
    if not able:
        assert found.threshold == NEVER and found.gain == 0
    else:
        best = max(able, key=lambda row: gains[row])
        error = (steered[float(best)].astype(float) - base).std() / np.sqrt(40)
        lowest = min(row for row in able if gains[row] >= gains[best] - error - 1e-12)
        assert (found.threshold, found.gain) == (float(lowest), pytest.approx(gains[lowest]))


@pytest.mark.parametrize(
    ("win", "lose", "margin"), [(0.1, 0.1, 0), (0.02, 0.02, 0), (0.05, 0.12, 0), (0.15, 0.2, 0.05), (0.02, 0.12, 0.1)]
)
def test_a_critic_that_costs_the_margin_is_let_through_no_more_often_than_alpha(win, lose, margin):
    # mutation: choosing the best threshold by its gain alone, or alpha for each threshold
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(500):
        u = rng.random((3, 150))  # three thresholds that have nothing in common: the hardest case
        base = np.zeros(150, bool)
        base[:75] = True
        steered = np.where(base, u >= 2 * lose, u < 2 * win)
        accepted += choose(base, dict(enumerate(steered, 1)), 0.1, margin).trial is not None
    assert accepted / 500 <= 0.1 + 0.03


def test_a_bounded_loss_is_risked_only_for_an_expected_gain():
    base, better = outcomes(6, 4, 190)
    assert choose(base, {ALWAYS: better}, margin=0.05).threshold == ALWAYS
    assert choose(base, {ALWAYS: better}, margin=0).threshold == NEVER  # mutation: the margin is not used
    assert choose(better, {ALWAYS: base}, margin=0.05).threshold == NEVER  # mutation: gain > 0 is not asked


def test_a_strong_gain_acts_and_harm_never_does():
    base, better = outcomes(20, 3)
    acts = choose(base, {ALWAYS: better, 0.5: base})
    assert acts.threshold == ALWAYS and acts.gain == pytest.approx(17 / 43) and acts.trial.bound > 0
    assert choose(better, {ALWAYS: base, 0.5: better}).threshold == NEVER  # mutation: base and steered exchanged


def test_outcomes_of_other_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        choose(np.zeros(4, bool), {ALWAYS: np.zeros(5, bool)})
    with pytest.raises(ValueError, match="expected thresholds"):
        choose(np.zeros(4, bool), {})
    with pytest.raises(ValueError, match=r"margin=-0\.1"):
        choose(np.zeros(4, bool), {ALWAYS: np.zeros(4, bool)}, margin=-0.1)


def test_thresholds_are_always_and_quantiles_of_what_is_known():
    assert thresholds(np.array([3.0, 1.0, np.nan, 2.0, np.inf])) == [ALWAYS, 2.0]
    assert thresholds(np.arange(5.0), (0.25, 0.75)) == [ALWAYS, 1.0, 3.0]
    assert thresholds(np.array([np.nan])) == [ALWAYS]
    assert thresholds(np.zeros(9), (0.2, 0.5)) == [ALWAYS, 0.0]  # mutation: list instead of set


# Confidence ---------------------------------------------------------------------------------------------------------


def scored_chunks(value: list[list[float]], critic=None) -> tuple[torch.Tensor, Scores, Situation]:
    values = torch.tensor(value)
    spec = point_spec()
    chunks = torch.rand(*values.shape, spec.horizon, 2, generator=torch.Generator().manual_seed(0))
    known = torch.ones_like(values, dtype=torch.bool)
    at = Situation((), known, spec=spec, critic=critic, execute=4)
    return chunks, Scores(values, torch.zeros_like(values), known), at


def test_confidence_is_the_gain_over_candidate_0_in_standard_deviations():
    chunks, scores, at = scored_chunks([[0.0, 2.0], [1.0, 1.0], [5.0, 1.0]])
    found = confidence(chunks, scores, pick(chunks, torch.tensor([1, 1, 1])), at)
    np.testing.assert_allclose(found, [2.0, 0.0, -2.0])  # std 1, no preference, std 2: mutation: unbiased std


def test_confidence_does_not_depend_on_the_critics_scale_and_offset():
    chunks, scores, at = scored_chunks([[0.3, 1.5, 0.9]])
    selection = pick(chunks, torch.tensor([1]))
    other = replace(scores, value=100 * scores.value + 7)
    np.testing.assert_allclose(
        confidence(chunks, scores, selection, at), confidence(chunks, other, selection, at), rtol=1e-5
    )


def test_a_new_chunk_is_valued_by_the_critic():
    critic = FixedCritic(point_spec(), 4, torch.tensor([[0.5, 3.0]]))  # of candidate 0 and the new one
    chunks, scores, at = scored_chunks([[0.0, 2.0]], critic)
    new = average(chunks, uniform(at.finite), at)
    np.testing.assert_allclose(confidence(chunks, scores, new, at), [2.5])  # mutation: the new one's value alone
    assert critic.seen[0][0, 0].equal(chunks[0, 0]) and critic.seen[0][0, 1].equal(new.chunk[0])
    with pytest.raises(ValueError, match="expected a critic"):
        confidence(chunks, scores, new, replace(at, critic=None))


def test_a_new_chunk_of_a_delayed_robot_is_valued_after_what_it_will_do_first():
    # mutation: the pair as it is, from the observation on
    critic = FixedCritic(point_spec(), 4, torch.tensor([[0.5, 3.0]]))
    chunks, scores, at = scored_chunks([[0.0, 2.0]], critic)
    pending = torch.tensor([[[0.1, 0.2], [0.3, 0.4], [9.0, 9.0]]])
    new = average(chunks, uniform(at.finite), at)
    confidence(chunks, scores, new, replace(at, pending=pending, committed=torch.tensor([2])))
    assert critic.seen[0][0, :, :2].equal(pending[:, :2].expand(2, 2, 2))
    assert critic.seen[0][0, 1, 2:].equal(new.chunk[0, :6]) and critic.seen[0][0, 0, 2:].equal(chunks[0, 0, :6])


@pytest.mark.parametrize("hole", [0, 1])
def test_what_has_no_finite_value_has_no_confidence_and_never_acts(hole):
    chunks, scores, at = scored_chunks([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    value = scores.value.clone()
    value[[0, 2], hole] = torch.nan
    holed = replace(scores, value=value)
    selection = pick(chunks, torch.tensor([1, 1, 1]))
    assert np.isnan(confidence(chunks, holed, selection, at)).tolist() == [True, False, True]
    use, why_not = Calibrated(ALWAYS)(chunks, holed, selection, at)  # mutation: ~(confidence <= threshold)
    assert use.tolist() == [False, True, False] and why_not == "abstained"


# The gate -----------------------------------------------------------------------------------------------------------


def steered(threshold: float, name: str = "softmax_average", n: int = 16):
    return Steerer(HomingPolicy(), HomingCritic(), selector(name), gate(threshold=threshold), n=n)(
        observation(point_spec())
    )


@pytest.mark.parametrize("name", ["argmax", "softmax_average"])
def test_a_gate_that_abstains_gives_candidate_0s_exact_chunk(name):
    plain, never, always = Steerer(HomingPolicy(), execute=4)(observation(point_spec())), steered(NEVER, name), None
    assert never.reason == ("abstained",) * 3 and not never.index.any()
    np.testing.assert_array_equal(never.chunk, never.candidates[:, 0])
    np.testing.assert_allclose(never.chunk, plain.chunk, atol=1e-6)
    always = steered(ALWAYS, name)
    assert always.reason == ("chosen",) * 3 and not np.array_equal(always.chunk, never.chunk)


def test_only_the_rows_above_the_threshold_act():
    chunks = torch.zeros(2, 2, 8, 2)
    chunks[:, 1] = 0.5
    critic = FixedCritic(point_spec(), 4, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    policy = FixedPolicy(point_spec(), chunks)
    decision = Steerer(policy, critic, selector("argmax"), gate(threshold=1.0), n=2)(observation(point_spec(), 2))
    assert decision.reason == ("chosen", "abstained")  # confidence 2 and 0


def test_the_gate_needs_either_a_file_or_a_threshold():
    for options in ({}, {"path": "gate.json", "threshold": 0.0}):
        with pytest.raises(ValueError, match="a path or a threshold"):
            gate(**options)
    with pytest.raises(ValueError, match="NaN"):
        gate(threshold=float("nan"))


def calibrated(critic=None, base=None, better=None) -> Calibration:
    steerer = Steerer(HomingPolicy(), critic or HomingCritic(), selector("softmax"), n=4)
    choice = choose(*outcomes(20, 3)[:1], {ALWAYS: outcomes(20, 3)[1], 0.25: outcomes(20, 3)[0]})
    return Calibration(choice, 0.5, (0.0, 0.5), Setup.of(steerer, steerer.critic), tuple(range(1000, 1043)), (0.5,))


def test_a_calibration_survives_its_file_and_the_file_is_strict_json(tmp_path):
    saved = calibrated()
    path = saved.save(tmp_path / "new" / "gate.json")
    assert Calibration.load(path) == saved  # mutation: "-inf" left a text
    json.loads(path.read_text(), parse_constant=pytest.fail)
    never = replace(saved, choice=Choice(NEVER, 0.05, saved.choice.trials))
    assert Calibration.load(never.save(path)) == never and gate(path=str(path)).threshold == NEVER


@pytest.mark.parametrize("text", ["[]", "{}", '{"format_version": 1}', '{"format_version": 2}'])
def test_another_file_is_not_a_calibration(tmp_path, text):
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(ValueError, match="calibration"):
        Calibration.load(tmp_path / "gate.json")


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("policy", {"policy": "other"}),
        ("critic", {"critic": "other"}),
        ("selector", {"selector": components.load("selectors", "softmax").Config(temperature=0.1).build()}),
        ("n", {"n": 5}),
        ("execute", {"execute": 3}),
    ],
)
def test_a_gate_refuses_what_it_was_not_calibrated_for(tmp_path, what, change):
    loaded = gate(path=str(calibrated().save(tmp_path / "gate.json")))
    parts = {"policy": HomingPolicy(), "critic": HomingCritic(), "selector": selector("softmax"), "n": 4, "execute": 4}
    loaded.check(Steerer(**parts), parts["critic"])
    for name, value in change.items():
        if name in ("policy", "critic"):
            parts[name].version = value  # another checkpoint
        elif name == "execute":
            parts |= {"execute": value, "critic": HomingCritic(scope=value)}
        else:
            parts[name] = value
    # mutation: Setup without that field
    with pytest.raises(ValueError, match=f"{what}: expected .*, got .*calibrate. again"):
        loaded.check(Steerer(**parts), parts["critic"])
    with pytest.raises(ValueError, match="expected a critic"):
        loaded.check(Steerer(HomingPolicy()), None)


def made_with(proposer) -> Setup:
    return Setup.of(SimpleNamespace(proposer=proposer, n=4, execute=4), HomingCritic())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("temperature", {"high": 1.4}),
        ("gaussian", {"scale": 2.0}),
        ("partial", {"pool": 2}),
        ("seeds", {"pool": 2}),
        ("primitives", {"which": ("stop",)}),
        ("mixture", {"shares": (1.0, 3.0)}),
        ("mixture", {"parts": ("samples", "temperature:high=1.9")}),
    ],
)
def test_a_gate_refuses_a_proposer_with_other_options_and_a_file_that_does_not_know_them(name, options):
    # mutation: the class's name alone in the Setup
    config = components.load("proposers", name).Config
    plain, other = made_with(config().build()), made_with(config(**options).build())
    plain.check(made_with(config().build()))
    for expected in (plain, replace(plain, proposer=type(config().build()).__name__)):
        with pytest.raises(ValueError, match=r"proposer: expected .*, got .*calibrate. again"):
            expected.check(other)


def test_a_gate_refuses_an_actor_with_another_share_and_other_recorded_data():
    # mutation: Actor.version without share; Retrieval described by its class
    for one, other in [
        (Actor(HomingPolicy(), 0.5), Actor(HomingPolicy(), 0.6)),
        *([SimpleNamespace(config=retrieval.Config(data=data)) for data in ("a", "b")],),
    ]:
        with pytest.raises(ValueError, match="proposer: expected"):
            made_with(one).check(made_with(other))


@pytest.mark.parametrize("name", components.names("proposers"))
def test_every_proposer_is_described_by_what_it_is_and_not_by_where_it_lies(name):
    # mutation: repr of a part that shows its address
    first, second = describe(proposer_fakes.build(name)), describe(proposer_fakes.build(name))
    assert first == second and " at 0x" not in first


# A whole calibration ------------------------------------------------------------------------------------------------


def arm(threshold: float) -> Arm:
    return Arm("gated", "argmax", n=8, critic="main", gate="calibrated", gate_options={"threshold": threshold})


def test_listening_is_the_plain_policy_and_hears_live_robots_only():
    seeds = range(30, 37)  # seven seeds on robots of four: one rests in the second wave
    base = compare(Counter(), Wanderer(), {}, [Arm("base")], seeds, execute=2, progress=False).result("base")
    steerer = arm(NEVER).steerer(Wanderer(), {"main": PushCritic()}, 2, 0)
    heard = calibrate.listen(Counter(), steerer, seeds)
    np.testing.assert_array_equal(heard.success, base.success[0])
    assert np.isfinite(heard.heard).sum() == sum(base.reasons.values())  # mutation: every row's confidence
    assert not (heard.heard < 0).any() and heard.setup == Setup.of(steerer, steerer.critic)


@pytest.fixture
def played(monkeypatch):
    """calibrate() on the counter world, in this process, for a critic of the given sign."""

    def play(sign: float, episodes: int = 60):
        critics = {"main": PushCritic(sign)}

        def run_all(_, calls, *__):
            return {key: function(*arguments) for key, (function, arguments) in calls.items()}

        def play_all(_, site, models, arms, seeds, seed, what):
            return compare(Counter(50), Wanderer(), critics, arms, seeds, execute=2, seed=seed, progress=False), {}

        def listen(job: Play, measure):
            return calibrate.listen(Counter(50), job.arm.steerer(Wanderer(), critics, 2, job.seed), job.seeds, measure)

        for name, stand_in in (("run_all", run_all), ("play_all", play_all), ("_listen", listen)):
            monkeypatch.setattr(calibrate, name, stand_in)
        site, models = Site(None, 10, 2), Models(0, None, {})
        return calibrate.calibrate(
            None, site, models, Arm("a", "argmax", n=4, critic="main"), range(1000, 1000 + episodes)
        )

    return play


def test_an_honest_critic_may_act_and_its_opposite_may_not(played, tmp_path):
    honest, liar = played(+1.0), played(-1.0)
    assert honest.choice.trial is not None and honest.choice.trial.bound > 0
    assert liar.choice.threshold == NEVER and liar.choice.gain == 0  # mutation: threshold chosen by confidence alone
    assert honest.base_success == liar.base_success and honest.seeds == tuple(range(1000, 1060))
    assert honest.abstained[0] < 0.05 and 0.3 < honest.abstained[1] < 0.7  # always, and above the median
    text = calibrate.table(honest)
    assert "<- chosen" in text and "lower bound (0.975)" in text and "never acts" in calibrate.table(liar)
    assert calibrate.plot(honest, tmp_path / "gate.png").stat().st_size > 5000


def test_shadow_results_return_in_the_order_of_the_seeds(played):
    played(+1.0)
    site, models, seeds = Site(None, 10, 3), Models(0, None, {}), range(40, 51)
    found = calibrate.listen_all(None, site, models, arm(NEVER), seeds, 0, confidence)
    alone = calibrate.listen(Counter(), arm(NEVER).steerer(Wanderer(), {"main": PushCritic()}, 2, 0), seeds)
    np.testing.assert_array_equal(found.success, alone.success)  # mutation: concatenating the parts
    np.testing.assert_allclose(found.heard, alone.heard, rtol=1e-5)


def test_the_shadow_run_is_played_in_the_waves_of_the_thresholds(played, monkeypatch):
    # mutation: seeds dealt out one by one: an episode would lie in another row than under a threshold
    played(+1.0)
    inner, jobs = calibrate._listen, []
    monkeypatch.setattr(calibrate, "_listen", lambda job, measure: (jobs.append(job.seeds), inner(job, measure))[1])
    calibrate.listen_all(None, Site(None, 4, 3), Models(0, None, {}), arm(NEVER), range(40, 51), 0, confidence)
    assert jobs == waves(range(40, 51), 4) and [len(seeds) for seeds in jobs] == [4, 4, 3]


def test_an_episode_that_broke_at_reset_is_heard_nothing_of():
    class Broken(Counter):
        def reset(self, tasks, seeds, rows=None):
            seen = super().reset(tasks, seeds, rows)
            self.over = np.isin(self.seed, self.unstable_seeds)
            return seen

    steerer = arm(NEVER).steerer(Wanderer(), {"main": PushCritic()}, 2, 0)
    found = calibrate.listen(Broken(4, unstable_seeds=(31,)), steerer, range(30, 34))
    # mutation: `ear.heard[summary.seed]`
    assert found.unstable.tolist() == [False, True, False, False]
    assert np.isfinite(found.heard).any(1).tolist() == [True, False, True, True]


def test_the_shadow_run_thinks_ahead_and_follows_as_the_arm_does(monkeypatch):
    # mutation: `_listen` without follower or lag
    critics, seeds = {"main": HomingCritic()}, range(5, 9)
    monkeypatch.setattr(calibrate, "load", lambda models: Trained(0, HomingPolicy(), critics))
    monkeypatch.setattr(calibrate, "robot_of", lambda site, n_obs_steps: PointMass(4))
    options = {"gate": "calibrated", "gate_options": {"threshold": NEVER}, "critic": "main"}
    late = Arm("late", "argmax", n=4, **options, follower="ensemble", lag=3)
    decided = {}
    for each in (late, replace(late, follower="splice"), replace(late, lag=None, follower="plain")):
        played = compare(PointMass(4), HomingPolicy(), critics, [each], seeds, progress=False).result("late")
        found = calibrate._listen(Play(Site(None, 4, 1), Models(0, None, {}), each, tuple(seeds), 0), confidence)
        assert found.success.tolist() == played.success[0].tolist()
        decided[each.follower] = np.isfinite(found.heard).sum(), found.heard.tolist()
        assert decided[each.follower][0] == sum(played.reasons.values())
    assert len({str(heard) for _, heard in decided.values()}) == 3, "the three are told apart"


def test_an_alarm_of_the_plain_policys_successes_rings_for_its_failures_first(played, tmp_path):
    played(+1.0)
    site, models = Site(None, 10, 2), Models(0, None, {})
    alarm = calibrate.failure_alarm(None, site, models, arm(NEVER), range(1000, 1400), 0, "value", 0.2)
    new = calibrate.listen_all(None, site, models, arm(NEVER), range(2000, 2400), 0, partial(failure_score, "value"))
    rings = alarm.rings(new.heard).any(1)
    assert alarm.setup.n == 8 and alarm.setup.execute == 2
    assert alarm.score == "value" and 0 < alarm.episodes < 60  # mutation: failures among the calibration episodes
    assert rings[~new.success].mean() > 2 * rings[new.success].mean()
