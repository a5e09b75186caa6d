"""What a sampler makes of labels: windows against a brute force, frequencies of starts against weights, controls."""

import numpy as np
import pytest
import torch
from recorded import make_episode, make_spec, memory_cache

from robot_value.critics import qc
from robot_value.fit import Job, Windowing, _enough, _same_discount
from robot_value.goals import GoalConfig
from robot_value.labels.cached import lay_out
from robot_value.labels.labels import Labels
from robot_value.sampling import ChunkSampler
from robot_value.training import TrainConfig
from robot_value.windows import make_windows, return_statistics, returns_to_go

SPEC = make_spec()
STEPS = (4, 6, 5)


def three():
    """Success that ended, failure that ended, time-out without a final frame."""
    return [
        make_episode(SPEC, STEPS[0], 0),
        make_episode(SPEC, STEPS[1], 1, success=False),
        make_episode(SPEC, STEPS[2], 2, success=None, terminated=False, final_observed=False),
    ]


def floats(*numbers) -> np.ndarray:
    return np.array(numbers, np.float32)


def labelled(labels, episodes=None, key="k"):
    cache = memory_cache(episodes or three())
    return cache, lay_out("mine", key, labels, cache)


def test_windows_hold_the_labels_rewards_returns_terminations_and_successes():
    rewards = [np.arange(n, dtype=np.float32) + 10 * e for e, n in enumerate(STEPS)]
    ends, gamma = (False, True, True), 0.5
    labels = [Labels(rewards=r, terminated=t, success=not t) for r, t in zip(rewards, ends, strict=True)]
    cache, columns = labelled(labels)
    batch = ChunkSampler(cache, 3, offsets=(3,), gamma=gamma, batch_size=256, labels=columns).sample()
    assert set(batch.index.tolist()) == set(range(15))  # the last step of the time-out counts: now it terminates
    episode_of, step_of = np.repeat(range(3), STEPS), np.concatenate([np.arange(n) for n in STEPS])
    for b, row in enumerate(batch.index.tolist()):
        e, t = episode_of[row], step_of[row]
        rest = rewards[e][t:]
        assert batch.rewards[b].tolist() == [*rest[:3], *[0] * (3 - len(rest[:3]))]
        assert batch.terminated[b].tolist() == [ends[e] and t + i == STEPS[e] - 1 for i in range(3)]
        assert batch.mc_return[b] == pytest.approx(sum(gamma**i * r for i, r in enumerate(rest)))
        assert batch.success[b] == (not ends[e]) and batch.weight[b] == 1


def test_what_labels_leave_out_is_as_recorded():
    cache, columns = labelled([Labels()] * 3)
    plain, same = (ChunkSampler(cache, 4, batch_size=64, seed=5, labels=each) for each in (None, columns))
    a, b = plain.sample(), same.sample()
    for name in ("index", "chunks", "rewards", "terminated", "mc_return", "success", "weight"):
        assert torch.equal(getattr(a, name).nan_to_num(7), getattr(b, name).nan_to_num(7)), name
    assert "labels" not in plain.state()  # mutation: old checkpoints no longer resume


def test_a_time_out_that_labels_do_not_end_keeps_its_last_step_out():
    cache, columns = labelled([Labels(terminated=False)] * 3)
    assert len(ChunkSampler(cache, 2, labels=columns)) == 14
    (lost,) = [make_episode(SPEC, 4, 3, terminated=True, final_observed=False)]
    cache, columns = labelled([Labels(terminated=False)], [lost])
    assert len(ChunkSampler(cache, 2, labels=columns)) == 3  # mutation: the recorded termination still counts


def test_starts_are_drawn_in_proportion_to_their_weights():
    weights = [floats(1, 0, 2, 1), floats(0, 0, 0, 0, 0, 0), floats(4, 1, 0, 3, 9)]
    cache, columns = labelled([Labels(weights=w) for w in weights])
    sampler = ChunkSampler(cache, 2, batch_size=1024, seed=3, labels=columns)
    drawn = np.bincount(np.concatenate([sampler.sample().index.numpy() for _ in range(64)]), minlength=15)
    expected = np.concatenate(weights) * np.r_[np.ones(14), 0]  # the last step of the time-out is no legal start
    expected *= drawn.sum() / expected.sum()
    assert not drawn[expected == 0].any()  # mutation: side="left", or weights that are off by one row
    spread = np.sqrt(expected[expected > 0])
    assert (np.abs(drawn[expected > 0] - expected[expected > 0]) < 4.5 * spread).all()
    assert (sampler.sample().weight == 1).all()  # mutation: the weight counts twice


def test_a_start_of_weight_zero_is_not_drawn_even_at_the_edges_of_chance():
    weights = np.zeros(15, np.float32)
    weights[[3, 9]] = 1e-30, 1
    parts = np.split(weights, np.cumsum(STEPS)[:-1])
    cache, columns = labelled([Labels(weights=w) for w in parts])
    sampler = ChunkSampler(cache, 2, labels=columns)
    edges = np.array([0.0, 1e-31, 0.5, np.nextafter(1.0, 0)])  # everything `random` can return
    drawn = sampler._starts(type("Edges", (), {"random": staticmethod(lambda shape: edges)}))
    assert set(drawn.tolist()) <= {3, 9} and drawn[0] == 3 and drawn[-1] == 9


def test_a_weighted_batch_is_a_function_of_seed_and_number_and_of_the_labels():
    cache, columns = labelled([Labels(weights=np.linspace(0, 1, n, dtype=np.float32)) for n in STEPS])
    options = {"batch_size": 8, "seed": 1}
    sampler = ChunkSampler(cache, 2, **options, labels=columns)
    batches = [sampler.sample().index.tolist() for _ in range(40)]
    again = ChunkSampler(cache, 2, **options, labels=columns)
    again.load_state(sampler.state() | {"position": 35})
    assert again.sample().index.tolist() == batches[35]
    other = lay_out("mine", "another", [Labels()] * 3, cache)
    for wrong in (other, None):  # mutation: a run goes on with other labels, or without
        with pytest.raises(ValueError, match="sampler state: expected"):
            ChunkSampler(cache, 2, **options, labels=wrong).load_state(sampler.state())


def test_weights_that_let_nothing_pass_are_refused():
    cache, columns = labelled([Labels(weights=np.zeros(n, np.float32)) for n in STEPS])
    with pytest.raises(ValueError, match="expected a start with a weight above 0, got 0 for all 14 in 3"):
        ChunkSampler(cache, 2, labels=columns)


def test_labelled_returns_replace_those_that_follow_from_rewards_where_there_are_any():
    given = np.linspace(5, 6, 4, dtype=np.float32)
    cache, columns = labelled([Labels(returns=given), Labels(), Labels()])
    windows = make_windows(cache, 1, 0.9, labels=columns)
    assert windows.mc_return[:4].tolist() == given.tolist()
    assert windows.mc_return[4:10].tolist() == returns_to_go(cache.reward[4:10], 0.9).tolist()


def test_success_only_goes_by_the_labelled_success():
    cache, columns = labelled([Labels(success=False), Labels(success=True), Labels(success=True)])
    starts = ChunkSampler(cache, 2, batch_size=256, success_only=True, labels=columns).sample().index
    assert set(starts.tolist()) == set(range(4, 14))


def test_the_shuffled_control_learns_nothing_from_weights_and_returns_either():
    episodes = [make_episode(SPEC, 10, s, success=s < 5) for s in range(10)]
    labels = [
        Labels(np.ones(10, np.float32) * (s < 5), floats(*[s < 5] * 10), s < 5, returns=floats(*[s < 5] * 10))
        for s in range(10)
    ]
    cache, columns = labelled(labels, episodes)
    true, control = (make_windows(cache, 1, 0.9, reward_shuffle_seed=s, labels=columns) for s in (None, 0))
    for name in ("reward", "weight", "mc_return"):
        was, now = getattr(true, name), getattr(control, name)
        assert sorted(was) == sorted(now), name  # mutation: returns made anew, of another scale
        assert 0.3 < now[:50].mean() < 0.7 and was[:50].mean() == 1, name  # mutation: weights stay with good episodes
    assert not control.terminated.any()


def test_the_shuffle_without_labels_is_the_one_it_was():
    cache = memory_cache(three())
    rng = np.random.default_rng(0)
    mixed = rng.permutation(cache.reward)
    control = make_windows(cache, 1, 0.9, reward_shuffle_seed=0)
    assert control.reward.tolist() == np.delete(mixed, 14).tolist()  # mutation: another order of draws
    np.testing.assert_array_equal(control.success, rng.permutation(cache.success))


def test_goals_take_weights_and_refuse_rewards():
    cache, columns = labelled([Labels(weights=floats(*[e == 1] * n)) for e, n in enumerate(STEPS)])
    batch = ChunkSampler(cache, 2, batch_size=64, goals=GoalConfig(), labels=columns).sample()
    assert set(batch.index.tolist()) <= set(range(4, 10))
    for said in ({"rewards": floats(*range(4))}, {"returns": floats(*range(4))}, {"terminated": False}):
        cache, columns = labelled([Labels(**said), Labels(), Labels()])
        with pytest.raises(ValueError, match="expected weights alone with goals"):
            ChunkSampler(cache, 2, goals=GoalConfig(), labels=columns)


def test_the_range_of_returns_follows_the_labels():
    costs = [Labels(rewards=np.full(n, -1, np.float32), terminated=n == 4) for n in STEPS]
    cache, columns = labelled(costs)
    found = return_statistics(cache, 0.9, columns)
    assert (found.low.item(), found.high.item()) == pytest.approx((-10, 0))  # -1 for ever: -1 / (1 - gamma)
    rewards = np.concatenate([returns_to_go(np.full(n, -1, np.float32), 0.9) for n in STEPS])
    assert found.mean.item() == pytest.approx(rewards.mean())
    cache, columns = labelled([Labels(floats(0, 0, 0, 1), terminated=True), *costs[1:]])
    assert return_statistics(cache, 0.9, columns).high.item() == 1  # mutation: the recorded rewards' range


def test_labelled_returns_widen_the_range_of_returns():
    zeros = [Labels(np.zeros(n, np.float32), returns=np.full(n, e - 1.5, np.float32)) for e, n in enumerate(STEPS)]
    cache, columns = labelled(zeros)
    found = return_statistics(cache, 0.9, columns)
    assert (found.low.item(), found.high.item()) == (-1.5, 0.5)
    assert found.mean.item() == pytest.approx((-1.5 * 4 - 0.5 * 6 + 0.5 * 5) / 15)
    costs = [Labels(np.full(n, -1, np.float32), returns=np.full(n, 0.5, np.float32)) for n in STEPS]
    cache, columns = labelled(costs)
    found = return_statistics(cache, 0.9, columns)
    assert (found.low.item(), found.high.item()) == pytest.approx((-10, 0.5))  # mutation: the labelled returns' alone


def test_returns_of_another_discount_than_the_critics_are_refused():
    labels = [Labels(returns=np.zeros(n, np.float32), about={"gamma": 0.9}) for n in STEPS]
    _, columns = labelled(labels)
    _same_discount(job(gamma=0.9), columns)
    with pytest.raises(ValueError, match=r"gamma 0.5, got 0.9; give --critic.gamma=0.9"):
        _same_discount(job(gamma=0.5), columns)


def test_a_validation_curve_needs_held_out_starts_with_weight_and_labelled_success():
    labels = [Labels(weights=np.full(n, e == 0, np.float32), success=e < 2) for e, n in enumerate(STEPS)]
    cache, columns = labelled(labels)
    for success_only, held_out, enough in (
        (False, [0], True),
        (False, [1, 2], False),
        (True, [1], False),
        (True, [0], True),
    ):
        assert _enough(job(success_only=success_only), cache, columns, np.array(held_out)) is enough


def job(gamma: float = 0.99, success_only: bool = False) -> Job:
    windowing = Windowing(success_only=success_only, labels="mine")
    return Job("nowhere", qc.Config(gamma=gamma), TrainConfig(), windowing)
