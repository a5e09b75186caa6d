"""What the recorder makes of messages is what the loop's own Recorder makes: it trains and replays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import Notebook, PointMass
from point_topics import SCHEMA, SPEC, TOPICS, play, steerer
from recorded import assert_same

from robot_value import wire
from robot_value.deploy.album import Album
from robot_value.deploy.episode_master import EpisodeMaster, Settings
from robot_value.deploy.recording import parse_step
from robot_value.deploy.store_writer import StoreWriter, open_store
from robot_value.fit import Job, Windowing, fit
from robot_value.loop import run_episodes
from robot_value.policies import flow
from robot_value.replay.logged_robot import LoggedRobot, differences
from robot_value.training import TrainConfig, load_model


class Nodes:
    """A Watcher that says over `wire` what steering, guard and a lock-step arm would say."""

    wants_episodes = False

    def __init__(self, master: EpisodeMaster, seeds) -> None:
        self.master, self.seeds, self.now = master, list(seeds), 0

    def on_decision(self, observation, decision, outcome) -> None:
        master, step = self.master, int(observation.step[0])
        if step == 0:
            master.settings = Settings(**(vars(master.settings) | {"seed": self.seeds.pop(0) - master.number}))
            assert master.start() == ""
            self.see(0, observation.state[0, -1])
        master.put_decision(wire.unpack_decision(wire.pack_decision(decision)))
        for i in range(int(outcome.executed_valid.sum())):
            self.now += 1
            about = wire.About(step + i, master.take.number, step + i, self.now, self.now, self.now, SCHEMA)
            self.master.put_plan(wire.Plan(about, outcome.commanded[0, i : i + 1].astype(np.float64), None, 0.1))
            self.master.put_command(wire.Plan(about, outcome.executed[0, i : i + 1].astype(np.float64), None, 0.1))
            master.put_reward(self.now, float(outcome.rewards[0, i]))
            last = outcome.done[0] and i == outcome.executed_valid.sum() - 1
            master.put_success(self.now, bool(last and outcome.success[0]))
            self.see(step + i + 1, outcome.states[0, i])
        if outcome.done[0] and master.take is not None:
            master.ended(master.take.number, step + i + 1, "max_steps")

    def see(self, k, state) -> None:
        about = {"episode": self.master.take.number, "step": k, "time": self.now, "used": {}, "frames": {}}
        self.master.put_step(parse_step(wire.pack(about, {"state": state}), TOPICS, lockstep=True))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same episodes by the loop's Recorder, and by ours from messages."""
    folder, seeds = tmp_path_factory.mktemp("topics"), (11, 4, 7)
    torch.set_num_threads(1)
    usual, store = play(folder / "usual", seeds), open_store(folder / "ours", SPEC)
    writer, album = StoreWriter(store), Album((), 1.0)
    rules = Settings(True, True, True, "", 0, "human", memory=1.0, free=0.0, grace=1.0, shortest=1, keep=True)
    nodes = Nodes(None, seeds)
    words = (TOPICS, writer, album, rules, {}, lambda about: None, lambda number, kept: None, lambda: nodes.now)
    nodes.master = EpisodeMaster(*words)
    run_episodes(PointMass(batch_size=1), steerer(), watchers=(nodes,), seeds=seeds)
    nodes.now += 1 << 40
    nodes.master.poll()
    assert writer.flush(10.0) and writer.refused == []
    yield usual, store
    writer.close(1.0)


def test_the_same_episode_by_topics_and_by_the_loop(both):
    # mutation: a decision lost at the end; rewards one step late; success unknown
    usual, ours = ([store.read(name) for name in store.names()] for store in both)
    assert len(usual) == len(ours) == 3
    for a, b in zip(usual, ours, strict=True):
        for name in ("states", "actions", "rewards", "terminated", "truncated", "success", "task", "source"):
            assert_same(getattr(a, name), getattr(b, name))
        assert_same(a.commanded, a.actions if b.commanded is None else b.commanded)
        for was, now in zip(a.decisions, b.decisions, strict=True):
            assert differences(was, now) == "" and was.start_step == now.start_step and was.seed == now.seed
        assert a.provenance["seed"] == b.provenance["seed"]


def test_the_offline_replay_of_a_recorded_episode_decides_bit_by_bit_the_same(both):
    # mutation: provenance["seed"] is the episode's number
    _, ours = both
    notebook = Notebook(wants_episodes=False)
    run_episodes(LoggedRobot(ours, n_obs_steps=2), steerer(), watchers=(notebook,), seeds=range(3))
    logged = [decision for name in ours.names() for decision in ours.read(name).decisions]
    assert len(logged) == len(notebook.decisions) > 10
    for was, (_, now, _) in zip(logged, notebook.decisions, strict=True):
        assert differences(was, now) == ""


def test_a_policy_trains_on_recorded_episodes_without_conversion(both, tmp_path):
    # mutation: a Spec with a horizon in the store; states without a row for the last action
    _, ours = both
    train = TrainConfig(str(tmp_path / "run"), 2, 8, validation_fraction=0.0, progress=False, tensorboard=False)
    job = Job(str(ours.path), flow.Config(width=16, depth=1, sample_steps=2), train, Windowing(horizon=4))
    policy = load_model(fit(job))
    assert policy.spec == SPEC.choose(horizon=4, n_obs_steps=1) and ours.verify() == []
