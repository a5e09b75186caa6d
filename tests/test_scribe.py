"""What a pass leaves behind: every critic's opinion of every candidate and of the log, in the right rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fakes import FixedPolicy, HomingCritic, HomingPolicy, point_spec
from recorded import assert_same
from replayed import synthetic

from robot_value.replay import tables
from robot_value.replay.logged_robot import LoggedRobot
from robot_value.replay.replayed import TABLE, LoggedEpisode, join
from robot_value.replay.scribe import replay
from robot_value.steering.selectors import argmax, softmax_average
from robot_value.steering.steerer import Steerer
from robot_value.types import Episode

LENGTHS = (9, 4, 7, 12, 3)


@dataclass
class Episodes:
    """A Log of random walks of the point."""

    lengths: tuple[int, ...] = LENGTHS

    @property
    def spec(self):
        return point_spec(horizon=0, n_obs_steps=0)

    def names(self):
        return [f"walk {i}" for i in range(len(self.lengths))]

    def read(self, name):
        i = self.names().index(name)
        rng, steps = np.random.default_rng(i), self.lengths[i]
        return Episode(
            spec=self.spec,
            states=rng.normal(size=(steps + 1, 2)).astype(np.float32),
            images={},
            actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            rewards=rng.normal(size=steps).astype(np.float32),
            terminated=i % 2 == 0,
            truncated=i % 2 == 1,
            success=None if i == 2 else i % 2 == 0,
            task=f"task {i}",
        )


@dataclass(frozen=True)
class Place:
    """An Onlooker: where the robot is, and how many are looked at together."""

    def look(self, moment):
        return {"place": moment.observation.state[:, -1], "at": moment.observation.step}


def steerer(critic=True, policy=None, selector=argmax, **changes) -> Steerer:
    critic = HomingCritic() if critic else None
    return Steerer(policy or HomingPolicy(), critic, selector.Config().build() if critic else None, **changes)


def walked(batch_size: int = 2, critics=None, log=Episodes(), **changes):
    robot = LoggedRobot(log, batch_size=batch_size, n_obs_steps=2)
    numbers = changes.pop("numbers", None)
    made = changes.pop("made", None) or steerer(n=3, seed=1)
    return replay(robot, made, critics, 0.9, progress=False, numbers=numbers, **changes)


def opinion_of(found, critic, rows, chunks):
    """float32[D, .], asked again one decision at a time."""
    values = []
    for d, each in zip(rows, chunks, strict=True):
        episode = Episodes().read(found.episodes[found.episode[d]].name)
        state = torch.from_numpy(episode.states[found.step[d]])[None]
        context = critic.encode(seen_with(state))
        values.append(critic.score(context, torch.from_numpy(each)[None], None).value[0].numpy())
    return np.array(values)


def seen_with(state):
    return type("Seen", (), {"state": state[:, None].numpy()})()


def test_rows_of_an_episode_are_together_in_time_and_decisions_are_k_steps_apart():
    # mutation: rows stay in the order of the waves
    found = walked()
    expected = [(e, t) for e, length in enumerate(LENGTHS) for t in range(0, length, 4)]
    assert list(zip(found.episode, found.step, strict=True)) == expected
    assert [found.rows(e).stop - found.rows(e).start for e in range(5)] == [3, 1, 2, 3, 1]


def test_the_logged_chunk_is_what_was_executed_and_its_last_action_repeated():
    # mutation: length counts the padding
    found = walked()
    for d in range(len(found)):
        actions, t = Episodes().read(found.episodes[found.episode[d]].name).actions, found.step[d]
        left = min(8, len(actions) - t)
        assert found.length[d] == left
        assert_same(found.logged[d], np.concatenate([actions[t : t + left], actions[[-1] * (8 - left)]]))


def test_every_critic_says_what_it_says_when_asked_alone():
    # mutation: the second critic's columns are off by one; the main one is asked with another context
    other = HomingCritic(scope=2)
    found = walked(critics={"other": other}, made=steerer(n=3, seed=1, selector=softmax_average))
    assert list(found.opinions) == ["main", "other"] and found.main == "main"
    for name, critic in (("main", HomingCritic()), ("other", other)):
        opinion, rows = found.opinions[name], range(len(found))
        for value, chunks in (
            (opinion.value, found.candidates),
            (opinion.logged_value[:, None], found.logged[:, None]),
            (opinion.chosen_value[:, None], found.chosen[:, None]),
        ):
            np.testing.assert_allclose(value, opinion_of(found, critic, rows, chunks), atol=1e-5)


def test_candidates_that_are_not_finite_have_no_opinion():
    chunks = torch.zeros(1, 3, 8, 2)
    chunks[0, 1] = torch.nan
    made = steerer(policy=FixedPolicy(point_spec(), chunks), n=3)
    found = walked(1, {"other": HomingCritic(scope=2)}, made=made)
    for opinion in found.opinions.values():
        assert np.isnan(opinion.value[:, 1]).all() and np.isfinite(opinion.value[:, [0, 2]]).all()


def test_without_a_critic_there_are_candidates_and_no_opinions():
    found = walked(made=steerer(critic=False, n=3))
    assert found.opinions == {} and found.main is None and found.candidates.shape == (7, 3, 8, 2)


def test_columns_of_onlookers_are_in_the_rows_they_are_about():
    # mutation: columns keep the order of the waves
    found = walked(onlookers=(Place(),))
    states = [Episodes().read(found.episodes[e].name).states[t] for e, t in zip(found.episode, found.step, strict=True)]
    assert_same(found.columns["place"], np.stack(states))
    assert_same(found.columns["at"], found.step)


def test_what_the_log_says_about_its_episodes_is_kept():
    found = walked()
    assert [e.steps for e in found.episodes] == list(LENGTHS)
    assert [e.success for e in found.episodes] == [True, False, None, False, True]
    assert np.isnan(found.success[2]) and found.episodes[3].task == "task 3" and not found.episodes[3].terminated
    assert_same(found.episodes[1].rewards, Episodes().read("walk 1").rewards)


def test_realised_returns_are_the_discounted_sum_from_a_step_on():
    episode = LoggedEpisode("x", 3, True, True, False, "", np.array([1, 2, 4], np.float32))
    assert_same(episode.returns(0.5), np.array([1 + 1 + 1, 2 + 2, 4.0]))


def test_a_pass_in_parts_is_the_pass():
    # mutation: numbers of episodes are not shifted; opinions of the last part only
    whole = walked(critics={"other": HomingCritic(scope=2)}, onlookers=(Place(),))
    parts = [
        walked(critics={"other": HomingCritic(scope=2)}, onlookers=(Place(),), numbers=numbers)
        for numbers in (range(2), range(2, 4), range(4, 5))
    ]
    assert_replayed(join(parts), whole)
    assert join(parts).seconds["total"] == pytest.approx(sum(part.seconds["total"] for part in parts))


def test_seconds_of_all_stages_are_within_the_total():
    seconds = dict(walked().seconds)
    total = seconds.pop("total")
    assert {"encode", "sample", "score", "select", "score all"} <= seconds.keys() and sum(seconds.values()) < total


def test_an_empty_log_is_one_clear_line():
    with pytest.raises(ValueError, match="expected episodes to replay, got none"):
        walked(log=Episodes(()), numbers=())


def test_a_pass_on_disk_is_the_same_pass(tmp_path):
    # mutation: float32 columns saved as float64; success None becomes False
    found = replace(synthetic(critics={"main": 0.1, "other": 0.3}), unequal=("e step 0: é",), compared=3)
    episodes = (replace(found.episodes[0], success=None), *found.episodes[1:])
    found = replace(found, episodes=episodes, seconds={"total": 1.5})
    tables.save(found, tmp_path / "part.npz")
    back = tables.load(tmp_path / "part.npz")
    assert_replayed(back, found)
    assert (back.spec, back.seconds, back.gamma) == (found.spec, found.seconds, found.gamma)


def assert_replayed(one, two):
    for name in ("episode", *TABLE):
        assert_same(getattr(one, name), getattr(two, name))
    assert list(one.opinions) == list(two.opinions) and one.columns.keys() == two.columns.keys()
    for name in two.opinions:
        assert_same(vars(one.opinions[name]), vars(two.opinions[name]))
    for name in two.columns:
        assert_same(one.columns[name], two.columns[name])
    for a, b in zip(one.episodes, two.episodes, strict=True):
        assert_same(vars(a), vars(b))
    assert (one.unequal, one.compared) == (two.unequal, two.compared)


def test_parquet_tables_hold_a_row_per_decision_and_per_episode(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = synthetic(episodes=5)
    rows = parquet.read_table(tables.write(tables.decisions(found), tmp_path / "decisions.parquet")).to_pydict()
    assert rows["episode"] == [found.episodes[e].name for e in found.episode] and rows["step"] == found.step.tolist()
    assert_same(np.array(rows["main.value"], np.float32), found.opinions["main"].value)
    assert rows["return"] == found.returns.tolist()
    each = parquet.read_table(tables.write(tables.episodes(found), tmp_path / "episodes.parquet")).to_pydict()
    assert each["success"] == [e.success for e in found.episodes]
    means = [found.opinions["main"].logged_value[found.rows(e)].mean() for e in range(5)]
    np.testing.assert_allclose(each["main.logged_value"], means, rtol=1e-6)
