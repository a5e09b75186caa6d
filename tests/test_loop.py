"""The one loop: synchronous and delaying robots, waves, what watchers see, and episodes at control rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import DT, HomingCritic, HomingPolicy, Notebook, PointMass, observation, point_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value import components, randomness
from robot_value.episode_builder import EpisodeBuilder, of_row
from robot_value.episodes.store import EpisodeStore
from robot_value.loop import Recorder, run_episodes
from robot_value.steering.steerer import Steerer
from robot_value.types import Camera, Outcome, SpecMismatch

H, K = 8, 4  # horizon and executed steps of the fakes


def base(execute: int = K) -> Steerer:
    return Steerer(HomingPolicy(), execute=execute)


def argmax() -> Steerer:
    return Steerer(HomingPolicy(), HomingCritic(scope=K), components.load("selectors", "argmax").Config().build(), n=8)


def by_hand(seed: int, delay: int, execute: int, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Executed actions [T, 2] and states [T + 1, 2] of the plain HomingPolicy on one PointMass, step by step."""
    position = np.random.default_rng(seed).uniform(-1, 1, 2).astype(np.float32)
    states, actions, queue = [position], [], []
    while True:
        noise = randomness.normal(0, [seed], [len(actions)], (1, H, 2))[0, 0]
        prefix, queue = queue[:delay], []
        chunk = list(np.clip(-position + np.float32(0.3) * noise, -1, 1))[len(prefix) :]
        later = min(delay, execute - 1)
        for action in [*prefix, *chunk[: execute - later]]:
            position = (position + np.float32(DT) * action).astype(np.float32)
            states.append(position)
            actions.append(action)
            if np.hypot(*position) < 0.1 or len(actions) == max_steps:
                return np.array(actions), np.array(states)
        queue = chunk[execute - later :]


@settings(max_examples=25, deadline=None)
@given(delays=st.lists(st.integers(0, 3), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_a_robot_that_delays_decisions_executes_the_splice_a_hand_simulation_gives(delays, seed):
    # mutation: start_step without `+ committed` in the Steerer, or from_start without its shift
    notebook, seeds = Notebook(), [seed + row for row in range(len(delays))]
    run_episodes(PointMass(len(delays), delays), base(), watchers=(notebook,), seeds=seeds)
    episodes = {episode.provenance["seed"]: episode for episode in notebook.episodes}
    for delay, key in zip(delays, seeds, strict=True):
        actions, states = by_hand(key, delay, K, 40)
        np.testing.assert_allclose(episodes[key].actions, actions, atol=1e-5)
        np.testing.assert_allclose(episodes[key].states, states, atol=1e-5)


def test_without_a_gap_every_decision_but_the_last_drives_exactly_k_steps():
    notebook = Notebook()
    run_episodes(PointMass(1, delay=2), base(), watchers=(notebook,), seeds=[3])
    starts = [int(decision.start_step[0]) for _, decision, _ in notebook.decisions]
    assert starts == list(range(0, K * len(starts), K)) and len(starts) > 2
    committed = [int(seen.committed[0]) for seen, _, _ in notebook.decisions]
    assert committed == [0] + [2] * (len(starts) - 1)


def test_history_is_stacked_at_control_rate_also_between_decisions():
    notebook = Notebook()
    run_episodes(PointMass(1, n_obs_steps=2), base(), watchers=(notebook,), seeds=[3])
    states = notebook.episodes[0].states
    for seen, _, _ in notebook.decisions[1:]:
        step = int(seen.step[0])
        np.testing.assert_array_equal(seen.state[0], states[step - 1 : step + 1])


def test_an_episode_holds_the_first_frame_and_one_per_executed_step():
    notebook = Notebook()
    (summary,) = run_episodes(PointMass(1), base(), watchers=(notebook,), seeds=[5], tasks=["home"])
    (episode,) = notebook.episodes
    assert episode.final_observed and len(episode) == summary.steps and episode.task == "home"
    assert episode.terminated and episode.success and not episode.truncated and summary.success
    assert episode.rewards.tolist() == [0.0] * (len(episode) - 1) + [1.0] and summary.reward == 1
    moved = episode.states[:-1] + np.float32(DT) * episode.actions
    np.testing.assert_allclose(episode.states[1:], moved, atol=1e-6)
    assert len(episode.decisions) == len(notebook.decisions) == sum(summary.reasons.values())
    assert episode.decisions[0].candidates.shape == (1, 1, H, 2) and summary.reasons == {"base": len(episode.decisions)}
    assert episode.provenance["seed"] == 5 and "start" in episode.provenance["latents"]
    assert episode.provenance["versions"]["policy"] == "HomingPolicy"


@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_waves_of_any_size_give_each_seed_the_same_episode_once_and_in_order(batch):
    # mutation: counting the spare rows of the last wave
    alone = run_episodes(PointMass(1), argmax(), seeds=range(7))
    notebook = Notebook()
    assert run_episodes(PointMass(batch), argmax(), watchers=(notebook,), seeds=range(7)) == alone
    assert sorted(episode.provenance["seed"] for episode in notebook.episodes) == list(range(7))
    live = sum(int(outcome.executed_valid.any(1).sum()) for *_, outcome in notebook.decisions)
    assert live == sum(sum(summary.reasons.values()) for summary in alone)


def test_steering_by_a_true_critic_ends_sooner_than_the_plain_policy():
    steps = [
        sum(s.steps for s in run_episodes(PointMass(5), steerer, seeds=range(10))) for steerer in (base(), argmax())
    ]
    assert steps[1] < 0.8 * steps[0]


def test_an_unstable_episode_is_marked_and_is_no_success():
    notebook = Notebook()
    summaries = run_episodes(PointMass(2, unstable=[1]), base(), watchers=(notebook,), seeds=[0, 1])
    assert [s.unstable for s in summaries] == [False, True] and not summaries[1].success and summaries[1].steps == 3
    assert {e.provenance["seed"]: e.provenance["unstable"] for e in notebook.episodes} == {0: False, 1: True}
    assert next(e for e in notebook.episodes if e.provenance["unstable"]).truncated


def test_episodes_are_put_together_only_where_a_watcher_wants_them(monkeypatch):
    built = []
    monkeypatch.setattr(EpisodeBuilder, "add", lambda self, *_: built.append(self))
    notebook = Notebook(wants_episodes=False)
    run_episodes(PointMass(2), base(), watchers=(notebook,), seeds=[0, 1])
    run_episodes(PointMass(2), base(), seeds=[0, 1])
    assert not built and notebook.decisions and not notebook.episodes


# mutation: in run_episodes pass every=True
def test_pictures_that_nobody_puts_into_an_episode_are_not_asked_for(monkeypatch):
    asked = []

    class Camera(PointMass):
        every_picture = True

        def execute(self, decision, follower):
            asked.append(self.every_picture)
            return super().execute(decision, follower)

    robot, notebook = Camera(1), Notebook()
    run_episodes(robot, base(), seeds=[0])
    notebook.wants_episodes = False
    run_episodes(robot, base(), watchers=(notebook,), seeds=[0])
    assert set(asked) == {False} and robot.every_picture
    asked.clear()
    run_episodes(robot, base(), watchers=(notebook, Notebook()), seeds=[0])
    assert set(asked) == {True} and robot.every_picture


def test_a_robot_or_a_task_list_that_does_not_fit_is_refused_before_anything_moves():
    robot = PointMass(1)
    robot.spec = robot.spec.choose(dt=1.0)
    with pytest.raises(SpecMismatch, match=r"dt: expected 0.1, got 1.0"):
        run_episodes(robot, base(), seeds=[0])
    assert not hasattr(robot, "seed")
    with pytest.raises(ValueError, match=r"tasks: expected one per seed \(2\), got 1"):
        run_episodes(PointMass(1), base(), seeds=[0, 1], tasks=["home"])


def test_no_seeds_is_no_episodes():
    assert run_episodes(PointMass(1), base(), seeds=[]) == []


def test_a_follower_of_ones_own_is_asked_every_control_step():
    offsets = []

    class Halved:
        def action(self, seen, decision, offset):
            offsets.append(offset.tolist())
            return decision.chunk[np.arange(len(offset)), offset] / 2

    notebook = Notebook()
    run_episodes(PointMass(1), base(), Halved(), (notebook,), seeds=[2])
    first = notebook.decisions[0]
    np.testing.assert_allclose(notebook.episodes[0].actions[:K], first[1].chunk[0, :K] / 2)
    assert offsets[:K] == [[0], [1], [2], [3]]


def test_the_progress_bar_counts_episodes(capsys):
    run_episodes(PointMass(2), base(), seeds=range(3), progress=True)
    assert "3/3" in capsys.readouterr().err


def test_the_recorder_appends_finished_episodes_with_what_it_was_told_about_them(tmp_path):
    with EpisodeStore.create(tmp_path / "store", point_spec()) as store:
        notebook = Notebook()
        watchers = (Recorder(store, {"robot": "point", "seed": "lost"}), notebook)
        run_episodes(PointMass(2), argmax(), watchers=watchers, seeds=[0, 1, 2])
        assert len(store) == 3
        for stored, kept in zip(store, notebook.episodes, strict=True):
            np.testing.assert_array_equal(stored.actions, kept.actions)
            np.testing.assert_array_equal(stored.decisions[0].value, kept.decisions[0].value)
            assert stored.provenance == kept.provenance | {"robot": "point"}  # what the loop knows wins
    with EpisodeStore.open(tmp_path / "store", "a") as store:
        run_episodes(PointMass(1), base(), watchers=(Recorder(store, decisions=False),), seeds=[9])
        assert store.read(store.names()[-1]).decisions == ()


def test_a_recorder_that_writes_in_the_background_has_written_everything_at_its_end(tmp_path):
    with EpisodeStore.create(tmp_path / "store", point_spec()) as store:
        with Recorder(store) as recorder:
            run_episodes(PointMass(2), base(), watchers=(recorder,), seeds=range(5))
        assert [episode.provenance["seed"] for episode in store] == [0, 1, 2, 3, 4]
        assert store.verify() == []


class FullDisk:
    """A store that accepts nothing."""

    def append(self, episode):
        raise OSError("no space left on device")


@pytest.mark.parametrize("episodes", [1, 100])  # 100: the error surfaces while robots still move
def test_what_a_background_recorder_could_not_write_is_an_error(episodes):
    # mutation: _settle(0) removed from Recorder.__exit__
    with pytest.raises(OSError, match="no space left"), Recorder(FullDisk()) as recorder:
        run_episodes(PointMass(1), base(), watchers=(recorder,), seeds=range(episodes))


def test_an_episode_that_broke_at_its_reset_is_reported_but_not_written():
    class Stillborn(PointMass):
        def execute(self, decision, follower) -> Outcome:
            outcome = super().execute(replace(decision, execute=decision.execute * 0), follower)
            return replace(outcome, truncated=np.ones(2, bool), unstable=np.ones(2, bool))

    notebook = Notebook()
    summaries = run_episodes(Stillborn(2), base(), watchers=(notebook,), seeds=[0, 1])
    assert [(s.steps, s.unstable, s.success) for s in summaries] == [(0, True, False)] * 2 and not notebook.episodes


def test_spare_rows_of_the_last_wave_are_told_to_execute_nothing():
    notebook = Notebook()
    run_episodes(PointMass(4), base(), watchers=(notebook,), seeds=[0])
    assert all(decision.execute.tolist() == [K, 0, 0, 0] for _, decision, _ in notebook.decisions)
    assert not any(outcome.executed_valid[1:].any() for *_, outcome in notebook.decisions)


def test_images_are_joined_like_states_and_padding_is_left_out():
    spec = point_spec().choose(cameras=(Camera("top", 2, 3),))
    start = observation(spec, 2)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 2, 3, 3)).astype(np.uint8)
    states = rng.standard_normal((2, 3, 2)).astype(np.float32)
    valid = np.array([[True, True, False], [True, True, True]])
    flags = {name: np.array([True, True]) for name in ("terminated", "success")}
    outcome = Outcome(
        observation=start,
        states=states,
        images={"top": frames},
        executed=np.zeros((2, 3, 2), np.float32),
        commanded=np.ones((2, 3, 2), np.float32),
        executed_valid=valid,
        rewards=np.zeros((2, 3), np.float32),
        source=np.zeros((2, 3), np.uint8),
        truncated=np.zeros(2, bool),
        unstable=np.zeros(2, bool),
        **flags,
    )
    builder = EpisodeBuilder(spec, 0, start)
    decision = Steerer(HomingPolicy(point_spec()))(observation(point_spec(), 2))
    builder.add(decision, outcome)
    episode = builder.build({"seed": 0})
    np.testing.assert_array_equal(episode.images["top"], [start.images["top"][0, -1], *frames[0, :2]])
    np.testing.assert_array_equal(episode.states, [start.state[0, -1], *states[0, :2]])
    assert episode.commanded.all() and len(episode) == 2
    assert of_row(decision, 1).chunk.shape == (1, H, 2) and of_row(decision, 1).reason == ("base",)
