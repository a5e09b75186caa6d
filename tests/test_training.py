"""Training: learns a toy task, stops and resumes to the bit, never keeps weights that a bad number touched."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics

from robot_value import checkpoint
from robot_value.critics import iql, mc
from robot_value.curves import NonFinite
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.learners import CriticLearner, Optimization, PolicyLearner, action_error, cosine, learner_for
from robot_value.normalize import fit_statistics
from robot_value.policies import diffusion, flow
from robot_value.sampling import ChunkSampler, split_episodes
from robot_value.training import (
    Interrupted,
    TrainConfig,
    choose_device,
    component_name,
    load_model,
    train_offline,
)
from robot_value.types import Episode

SPEC = spec(horizon=4, n_obs_steps=1, state=2)
POLICY = flow.Config(width=16, depth=2, sample_steps=4)
CRITIC = iql.Config(members=2, hidden=(16, 16))
QUIET = TrainConfig(
    batch_size=16, steps=40, log_every=7, validate_every=16, save_every=15, progress=False, tensorboard=False
)
MIDDLE, REACH = (torch.from_numpy(x) for x in ((SPEC.low + SPEC.high) / 2, (SPEC.high - SPEC.low) / 4))
CENTRE = observation(SPEC, 1, state=np.zeros((1, 1, 2), np.float32))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Two modes: half of the episodes always do +, end in success and reward 1; the others do - and time out."""
    rng = np.random.default_rng(0)
    store = EpisodeStore.create(tmp_path_factory.mktemp("data") / "store", SPEC)
    for i in range(20):
        good, steps = i % 2 == 0, 8
        actions = MIDDLE.numpy() + REACH.numpy() * ((1 if good else -1) + 0.1 * rng.standard_normal((steps, 2)))
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = good
        states = rng.standard_normal((steps + 1, 2)).astype(np.float32)
        store.append(Episode(SPEC, states, {}, actions.astype(np.float32), rewards, good, not good, good, TASKS[i % 2]))
    store.close()
    return open_cache(EpisodeStore.open(store.path), progress=False)


def setup(cache, component, config, optimization=None):
    """A learner with its training and held-out windows."""
    measured = fit_statistics({"state": cache.state, "action": cache.action})
    model = component.build(SPEC, measured, cache.tasks)
    samplers = [
        ChunkSampler(cache, 4, 1, (4,), getattr(model, "gamma", 0.99), config.batch_size, config.seed, episodes)
        for episodes in split_episodes(len(cache), config.validation_fraction, config.seed)
        if len(episodes)
    ]
    return learner_for(model, config.steps, optimization), samplers[0], samplers[1] if samplers[1:] else None


def train(cache, component, config, optimization=None):
    learner, sampler, validation = setup(cache, component, config, optimization)
    return train_offline(learner, sampler, config, validation)


def weights(folder) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder).tensors


class StopAfter:
    """A sampler during whose n-th batch somebody presses Ctrl-C."""

    def __init__(self, sampler, n: int, number: int = signal.SIGINT):
        self.sampler, self.left, self.number = sampler, n, number

    def sample(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return self.sampler.sample()

    def __getattr__(self, name):
        return getattr(self.sampler, name)


# Learning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [POLICY, diffusion.Config(width=32, depth=2)], ids=["flow", "diffusion"])
def test_a_policy_learns_both_modes_of_the_data(cache, tmp_path, policy):
    # mutation: velocity_target returns noise - data
    config = replace(QUIET, folder=str(tmp_path), steps=400, batch_size=64, validation_fraction=0.0)
    policy = replace(policy, width=48, sample_steps=10)
    model = load_model(train(cache, policy, config, Optimization(lr=3e-3, ema=0.99)))
    noise = torch.randn(1, 200, 4, 2, generator=torch.Generator().manual_seed(0))
    chunks, _ = model.sample(model.encode(CENTRE), 200, noise)
    side = ((chunks - MIDDLE) / REACH)[0]  # +1 or -1 in every number of a chunk
    near = (side.abs() - 1).abs().mean((1, 2)) < 0.4
    good = (side > 0).all(2).all(1)
    assert near.float().mean() > 0.7
    assert 0.25 < good.float().mean() < 0.75


@pytest.mark.parametrize("config", [CRITIC, mc.Config(members=2, hidden=(16, 16))], ids=["iql", "mc"])
def test_a_critic_ranks_the_mode_that_is_rewarded_higher(cache, tmp_path, config):
    # mutation: returns of the wrong sign, or expectile of v - q
    training = replace(QUIET, folder=str(tmp_path), steps=200, batch_size=64, validation_fraction=0.0)
    critic = load_model(train(cache, replace(config, lr=3e-3), training))
    chunks = torch.stack([MIDDLE - REACH, MIDDLE + REACH])[None, :, None].expand(1, 2, 4, 2)
    with torch.no_grad():
        bad, good = critic.score(critic.encode(CENTRE), chunks).value[0]
    assert good > bad + 0.2


def test_held_out_episodes_give_a_validation_curve_of_loss_and_action_error(cache, tmp_path):
    config = replace(QUIET, folder=str(tmp_path))
    train(cache, POLICY, config)
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert curves["train"]["step"] == [7, 14, 15, 16, 21, 28, 30, 32, 35, 40]
    assert curves["validation"]["step"] == [16, 32, 40]
    assert all(v is not None for v in curves["validation"]["loss"] + curves["validation"]["action_error"])
    assert {"loss", "grad_norm", "lr"} < set(curves["train"])


def test_the_action_error_is_the_mean_distance_in_standard_deviations():
    policy, batch = POLICY.build(SPEC, statistics(SPEC)), random_batch(SPEC)
    policy.sample = lambda context, n, noise: (batch.chunks[:, None] + torch.tensor(policy.actions.scale) * 2, None)
    batch.valid[:, 1:] = False
    assert action_error(policy, batch, torch.Generator()).item() == pytest.approx(2, abs=1e-4)


def test_validation_does_not_change_training(cache, tmp_path):
    folders = [
        train(cache, POLICY, replace(QUIET, folder=str(tmp_path / str(every)), validate_every=every))
        for every in (0, 5)
    ]
    a, b = map(weights, folders)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_zero():
    assert cosine(0, 1000, 100) == pytest.approx(1 / 101)
    assert cosine(100, 1000, 100) == 1
    assert cosine(550, 1000, 100) == pytest.approx(0.5)
    assert cosine(1000, 1000, 100) == 0


# Stopping and resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", [POLICY, CRITIC], ids=["policy", "critic"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(cache, tmp_path, component, number):
    # mutation: do not restore the generator / the optimizer / the sampler
    straight = train(cache, component, replace(QUIET, folder=str(tmp_path / "straight")))
    config = replace(QUIET, folder=str(tmp_path / "stopped"))
    learner, sampler, validation = setup(cache, component, config)
    with pytest.raises(Interrupted) as stopped:
        train_offline(learner, StopAfter(sampler, 20, number), config, validation)
    assert stopped.value.code == 128 + number
    assert checkpoint.newest(tmp_path / "stopped").name == "step_00000020"
    torch.manual_seed(99)  # another process would stand elsewhere
    resumed = train(cache, component, config)
    a, b = weights(straight), weights(resumed)
    assert resumed.name == straight.name == "step_00000040"
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    curves = [json.loads((tmp_path / run / "curves.json").read_text()) for run in ("straight", "stopped")]
    assert curves[0]["validation"] == curves[1]["validation"]


def test_signals_are_handled_only_while_training(cache, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(cache, POLICY, replace(QUIET, folder=str(tmp_path), steps=2))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_run_is_returned_at_once_and_can_be_protected(cache, tmp_path):
    config = replace(QUIET, folder=str(tmp_path), steps=5)
    first = train(cache, POLICY, config)
    made = (first / "manifest.json").stat().st_mtime_ns
    assert train(cache, POLICY, config) == first
    assert (first / "manifest.json").stat().st_mtime_ns == made
    with pytest.raises(ValueError, match="expected an empty folder, got a run at step_00000005"):
        train(cache, POLICY, replace(config, resume=False))


def test_a_run_is_not_continued_with_another_configuration(cache, tmp_path):
    config = replace(QUIET, folder=str(tmp_path), steps=5)
    train(cache, POLICY, config)
    with pytest.raises(ValueError, match="made with steps=5, got steps=6; use another folder"):
        train(cache, POLICY, replace(config, steps=6))
    with pytest.raises(ValueError, match="made with width=16, got width=8"):
        train(cache, replace(POLICY, width=8), config)
    with pytest.raises(ValueError, match=r"made with lr=0.0003, got lr=0.1"):
        train(cache, POLICY, config, Optimization(lr=0.1))


def test_old_checkpoints_are_removed(cache, tmp_path):
    train(cache, POLICY, replace(QUIET, folder=str(tmp_path), save_every=10, keep=2))
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00000030", "step_00000040"]


def test_points_after_the_checkpoint_are_drawn_again(cache, tmp_path):
    config = replace(QUIET, folder=str(tmp_path))
    learner, sampler, validation = setup(cache, POLICY, config)
    with pytest.raises(Interrupted):
        train_offline(learner, StopAfter(sampler, 20), config, validation)
    path = tmp_path / "curves.json"
    points = json.loads(path.read_text())
    for name, values in points["train"].items():  # as a run killed at step 29 would leave them
        values += [28] if name == "step" else [-1.0]
    path.write_text(json.dumps(points))
    learner, sampler, validation = setup(cache, POLICY, config)
    train_offline(learner, sampler, config, validation)
    train = json.loads(path.read_text())["train"]
    assert train["step"] == [7, 14, 15, 16, 20, 21, 28, 30, 32, 35, 40] and -1.0 not in train["loss"]


# Bad numbers --------------------------------------------------------------------------------------------------------


class Poisoned:
    """A sampler whose n-th batch holds a NaN action."""

    def __init__(self, sampler, n: int):
        self.sampler, self.left = sampler, n

    def sample(self):
        self.left -= 1
        batch = self.sampler.sample()
        return replace(batch, chunks=batch.chunks * torch.nan) if self.left == 0 else batch

    def __getattr__(self, name):
        return getattr(self.sampler, name)


@pytest.mark.parametrize("component", [POLICY, CRITIC], ids=["policy", "critic"])
def test_a_loss_that_is_no_number_stops_with_its_step_and_keeps_the_last_good_checkpoint(cache, tmp_path, component):
    # mutation: save before flushing the window
    config = replace(QUIET, folder=str(tmp_path), log_every=1000, save_every=10)
    learner, sampler, validation = setup(cache, component, config)
    with pytest.raises(NonFinite, match=r"step 14: expected a finite train (loss|grad_norm), got nan"):
        train_offline(learner, Poisoned(sampler, 14), config, validation)
    last = checkpoint.newest(tmp_path)
    assert last.name == "step_00000010"
    assert all(tensor.isfinite().all() for tensor in weights(last).values())


# Loading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", [POLICY, diffusion.Config(width=16, depth=1), CRITIC], ids=str)
def test_a_saved_model_answers_as_the_trained_one(cache, tmp_path, component):
    config = replace(QUIET, folder=str(tmp_path), steps=5)
    learner, sampler, validation = setup(cache, component, config)
    folder = train_offline(learner, sampler, config, validation)
    for path in (folder, tmp_path):
        loaded = load_model(path, "cpu")
        assert loaded.version.startswith(component_name(loaded)) and not loaded.training
        assert loaded.config == component and loaded.tasks == TASKS
        for key, tensor in learner.deployed.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"expected a folder with manifest.json"):
        load_model(tmp_path)


def test_a_device_this_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="device: expected one this machine has, got 'cuda' without a GPU"):
        choose_device("cuda")


def test_third_party_models_are_named_by_their_module():
    class Model:
        config = replace(POLICY)

    assert component_name(Model()) == "flow"
    Model.config = Optimization()
    assert component_name(Model()) == "learners"
    Model.config = SPEC.parts[0]
    type(Model.config).__module__, before = "my_lab.policy", type(Model.config).__module__
    try:
        assert component_name(Model()) == "my_lab.policy"
    finally:
        type(Model.config).__module__ = before


# Learners and curves ------------------------------------------------------------------------------------------------


def test_a_critic_brings_its_own_update_and_a_policy_is_averaged():
    critic = learner_for(CRITIC.build(SPEC, statistics(SPEC)), 10)
    policy = learner_for(POLICY.build(SPEC, statistics(SPEC)), 10)
    assert isinstance(critic, CriticLearner) and critic.deployed is critic.model
    assert isinstance(policy, PolicyLearner) and policy.deployed is not policy.model


def test_tensorboard_events_are_written_when_asked(cache, tmp_path):
    train(cache, POLICY, replace(QUIET, folder=str(tmp_path), steps=5, tensorboard=True))
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))


def test_wandb_is_touched_only_when_asked_and_its_absence_is_one_line(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match="wandb was asked for but is not installed"):
        train(cache, POLICY, replace(QUIET, folder=str(tmp_path), steps=5, wandb="project"))


def test_wandb_gets_every_point(cache, tmp_path, monkeypatch):
    class Fake:
        points, finished = [], False

        @classmethod
        def init(cls, project, dir, config):
            assert project == "project" and config["steps"] == 5
            return cls

        @classmethod
        def log(cls, values, step):
            cls.points.append((step, sorted(values)))

        @classmethod
        def finish(cls):
            cls.finished = True

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    train(cache, POLICY, replace(QUIET, folder=str(tmp_path), steps=5, wandb="project", validate_every=0))
    assert Fake.points == [(5, ["train/grad_norm", "train/loss", "train/lr"])] and Fake.finished
