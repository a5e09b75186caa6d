"""Training in several processes: whoever has which rows, the update is one process's; one writes, all stop.

The ranks are threads here; test_scale_processes.py has processes.
"""

from __future__ import annotations

import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from learning_fakes import TASKS, random_batch, spec, statistics
from rank_threads import on_ranks
from scale_runs import AT_ONCE, NEAR, assert_the_same_run, setup
from test_joint_training import FLOW, PAIRS, QUIET, SMALL, SPEC, record

from robot_value import checkpoint, cli, training
from robot_value.critics import cal_ql, iql, preference
from robot_value.critics.regularizers import RegularizerConfig
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.learners import CriticLearner, JointLearner, PolicyLearner, learner_for
from robot_value.mixing import take
from robot_value.networks.observation import EncoderConfig
from robot_value.policies import diffusion
from robot_value.ranks import RankLost
from robot_value.training import Interrupted, train_offline

SEEING = spec(horizon=4, state=2, images=True)
ALONE = {
    "flow": (FLOW, SPEC),
    "flow of images": (FLOW, SEEING),
    "diffusion": (diffusion.Config(width=32, depth=1), SPEC),
    "iql": (iql.Config(**SMALL), SPEC),
    "iql of images": (iql.Config(**SMALL, encoder=EncoderConfig(shift=2)), SEEING),
}


def batch_of(contract, rows: int = 16, seed: int = 0):
    """Rows that count unequally: cut off by the episode's end, weighed, of success and of failure."""
    batch, generator = random_batch(contract, rows, seed=seed), torch.Generator().manual_seed(seed)
    left = torch.randint(1, 9, (rows, 1), generator=generator)
    return replace(
        batch,
        valid=torch.arange(batch.valid.shape[1]) < left,
        weight=torch.rand(rows, generator=generator) + 0.2,
        success=(torch.arange(rows) % 3 == 0).float(),
    )


def learner_of(name: str):
    if name in ALONE:
        config, contract = ALONE[name]
        return learner_for(config.build(contract, statistics(contract), TASKS), 100, AT_ONCE)
    critic, policy = (config.build(SPEC, statistics(SPEC), TASKS) for config in PAIRS[name])
    return JointLearner(CriticLearner(critic), PolicyLearner(policy, 100, AT_ONCE))


def weights(learner) -> torch.Tensor:
    """All that is trained, averaged or deployed."""
    models = [model for part in learner.parts.values() for model in (part.model, part.deployed)]
    return torch.cat([tensor.double().flatten() for model in models for tensor in model.state_dict().values()])


def gradients(learner) -> torch.Tensor:
    """Of the last update, clipped."""
    found = [weight.grad for part in learner.parts.values() for weight in part.model.parameters()]
    return torch.cat([grad.flatten() for grad in found if grad is not None])


def updated(learner, batches, index: int = 0, number: int = 1):
    """The metrics of an update with this rank's rows of each batch."""
    generator, found = torch.Generator().manual_seed(3), []
    for batch in batches:
        rows = len(batch.chunks) // number
        found.append(learner.update(take(batch, slice(index * rows, (index + 1) * rows)), generator))
    return found, generator.get_state()


# The update ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [*((name, 2) for name in (*ALONE, *PAIRS)), ("flow", 4), ("qc", 4)])
def test_ranks_that_share_a_batch_make_the_update_that_one_makes_of_all_of_it(name, number):
    # mutation: clip before averaging; divide by the own rows' weights; draw noise for the own rows only
    batches = [batch_of(ALONE.get(name, (0, SPEC))[1], seed=i) for i in range(1 if "images" in name else 3)]
    whole, learners = learner_of(name), [learner_of(name) for _ in range(number)]
    begun = weights(whole)
    asked, state = updated(whole, batches)
    done = [each.result() for each in on_ranks(number, lambda i: updated(learners[i], batches, i, number))]
    assert (weights(whole) - begun).abs().max() > 1e-4  # it has learned something
    for learner, (_, after) in zip(learners, done, strict=True):
        assert torch.equal(weights(learner), weights(learners[0])) and torch.equal(after, state)
    # A bias before a normalization has no gradient but for rounding, which Adam makes a step of.
    compared = gradients if "images" in name else weights
    torch.testing.assert_close(compared(learners[0]), compared(whole), **NEAR)
    for key in asked[0]:  # what is logged: the mean over the ranks
        mean = torch.stack([metrics[0][key] for metrics, _ in done]).mean(0)
        torch.testing.assert_close(mean, asked[0][key], rtol=1e-4, atol=1e-5)


def test_perturbed_and_random_chunks_are_those_of_the_whole_batch():
    # mutation: noise of several copies by the first dimension
    smooth = iql.Config(regularizer=RegularizerConfig(smoothness=9.0, samples=3, epsilon=0.5), **SMALL)
    for config in (smooth, cal_ql.Config(samples=2, **SMALL)):
        models = [config.build(SPEC, statistics(SPEC), TASKS) for _ in range(3)]
        for model in models:
            model.attach(FLOW.build(SPEC, statistics(SPEC), TASKS))
        learners, batch = [CriticLearner(model) for model in models], batch_of(SPEC)
        updated(learners[0], [batch])
        on_ranks(2, lambda i, learners=learners, batch=batch: updated(learners[1 + i], [batch], i, 2))
        torch.testing.assert_close(gradients(learners[1]), gradients(learners[0]), **NEAR)


def test_what_compares_rows_with_each_other_sees_its_own_and_all_ranks_still_agree():
    # mutation: keep generators of their own on the ranks
    learners = [learner_for(preference.Config(**SMALL).build(SPEC, statistics(SPEC), TASKS), 9) for _ in range(3)]
    updated(learners[2], [batch_of(SPEC)])
    on_ranks(2, lambda i: updated(learners[i], [batch_of(SPEC)], i, 2))
    assert torch.equal(weights(learners[0]), weights(learners[1]))
    assert not torch.allclose(weights(learners[0]), weights(learners[2]), **NEAR)


# Runs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "store"
    record(path, 12)
    return path


@pytest.fixture(scope="module")
def cache(data):
    return open_cache(EpisodeStore.open(data), progress=False)


def run(cache, number: int, config, wrap=lambda sampler, index: sampler):
    """A future per rank."""
    made = [setup(cache, config, i, number) for i in range(number)]
    made = [(learner, wrap(sampler, i), *rest) for i, (learner, sampler, *rest) in enumerate(made)]
    return on_ranks(number, lambda i: train_offline(*made[i]))


@pytest.fixture(scope="module")
def straight(cache, tmp_path_factory):
    """One process's run."""
    folder = tmp_path_factory.mktemp("straight")
    train_offline(*setup(cache, replace(QUIET, folder=str(folder))))
    return folder


def test_a_run_of_several_ranks_is_written_once_and_is_the_run_of_one(cache, straight, tmp_path, monkeypatch):
    # mutation: every rank writes; the validation curve of the first rank's rows; no wait for the last checkpoint
    saved, save = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda folder, **rest: (saved.append(folder), save(folder, **rest)))
    ends = [each.result() for each in run(cache, 2, replace(QUIET, folder=str(tmp_path)))]
    assert ends == [tmp_path, tmp_path] and len(saved) == len(set(saved)) == 4
    assert_the_same_run(tmp_path, straight)


def test_a_signal_that_one_rank_catches_stops_all_after_the_same_step_and_any_number_goes_on(
    cache, straight, tmp_path, monkeypatch
):
    # mutation: each rank minds its own signals; the sampler's or the generator's position counts own rows
    caught: list[int] = []

    @contextmanager
    def noted():  # threads catch no signals: the second rank's list is where one arrives
        yield caught

    class Signalled:
        def __init__(self, sampler, index):
            self.sampler, self.index, self.left = sampler, index, 7

        def sample(self):
            self.left -= 1
            if self.index == 1 and self.left == 0:
                caught.append(signal.SIGTERM)
            return self.sampler.sample()

        def __getattr__(self, name):
            return getattr(self.sampler, name)

    config = replace(QUIET, folder=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(training, "signals_noted", noted)
        ends = [each.exception() for each in run(cache, 2, config, Signalled)]
    assert all(isinstance(end, Interrupted) and end.code == 128 + signal.SIGTERM for end in ends)
    assert checkpoint.newest(tmp_path / "policy").name == checkpoint.newest(tmp_path / "critic").name == "step_00000007"
    torch.manual_seed(99)
    for number in (1, 4):
        again = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}_{number}"))
        assert not any(each.exception() for each in run(cache, number, replace(config, folder=str(again))))
        assert_the_same_run(again, straight, ["validation"])


def test_when_a_rank_is_lost_the_others_end_and_what_was_saved_stays(cache, tmp_path):
    # mutation: save what the others have made of it
    class Failing:
        def __init__(self, sampler, index):
            self.sampler, self.left = sampler, 9 if index else 99

        def sample(self):
            self.left -= 1
            if self.left == 0:
                raise OSError("no such disk")
            return self.sampler.sample()

        def __getattr__(self, name):
            return getattr(self.sampler, name)

    ends = [each.exception() for each in run(cache, 2, replace(QUIET, folder=str(tmp_path)), Failing)]
    assert isinstance(ends[0], RankLost) and isinstance(ends[1], OSError)
    assert [path.name for path in sorted(tmp_path.rglob("step_*"))] == ["step_00000006"] * 2


def test_a_sampler_that_gives_every_rank_the_whole_batch_is_refused(cache, tmp_path):
    # mutation: train on it
    made = [setup(cache, replace(QUIET, folder=str(tmp_path))) for _ in range(2)]
    ends = on_ranks(2, lambda i: train_offline(*made[i]))
    assert all("expected a share of 8 rows of every batch" in str(each.exception()) for each in ends)


def test_a_critic_that_does_not_average_its_gradients_is_refused_before_anything_is_saved(cache, tmp_path, monkeypatch):
    # mutation: compare nothing after the first update
    monkeypatch.setattr("robot_value.critics.chunk_critic.average_gradients", lambda parameters: None)
    ends = run(cache, 2, replace(QUIET, folder=str(tmp_path)))
    assert all("call ranks.average_gradients" in str(each.exception()) for each in ends)
    assert not list(tmp_path.rglob("step_*"))


def test_ranks_that_do_not_see_the_same_folder_are_refused(cache, straight, tmp_path):
    # mutation: each resumes from what it sees
    made = [setup(cache, replace(QUIET, folder=str(folder)), i, 2) for i, folder in enumerate((straight, tmp_path))]
    ends = on_ranks(2, lambda i: train_offline(*made[i]))
    assert all("expected a folder that all processes share" in str(each.exception()) for each in ends)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(cache):
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes"):
        setup(cache, QUIET, 0, 3)


def test_online_learning_is_one_process_whatever_a_launcher_starts(monkeypatch, capsys):
    # mutation: two learners on one folder
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", "online", "--policy=x"]) == 2
    assert "train online: expected one process, got 2 from a launcher" in capsys.readouterr().err
