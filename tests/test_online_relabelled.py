"""Labels of offline data that are said anew while own episodes come in: a place that was visited is new no more."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import point_spec
from online_fakes import Here, PointConfig, save_models
from recorded import make_episode

from robot_value import checkpoint
from robot_value.arms import MAIN
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.labelers import explore
from robot_value.labels.run import label
from robot_value.labels.small_network import FitConfig
from robot_value.online import learning
from robot_value.online.growing_sampler import GrowingSampler
from robot_value.online.grown import Grown
from robot_value.online.learning import Online, OnlineJob, Schedule, train_online
from robot_value.online.relabelled import Relabelled
from robot_value.sampling import ChunkSampler

SPEC = point_spec(horizon=0, n_obs_steps=0)
FAR = 3.0  # m from what was labelled


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """Nobody looks at it here, and it takes as long as the run."""
    monkeypatch.setattr(learning, "write_page", lambda *_: None)


def episode(seed, far, success):
    rng = np.random.default_rng(seed)
    states = (FAR * far + rng.normal(scale=0.1, size=(21, 2))).astype(np.float32)
    rewards = np.zeros(20, np.float32)
    return make_episode(SPEC, 20, seed=seed, states=states, rewards=rewards, success=success, task="")


def offline(path):
    """Labelled episodes here, and unlabelled ones where nobody knows anything."""
    with EpisodeStore.create(path, SPEC) as store:
        for seed in range(4):
            store.append(episode(seed, far=seed >= 2, success=True if seed < 2 else None))
    store = EpisodeStore.open(path)
    label(store, "explore", explore.Config(fit=FitConfig((16,), steps=150, batch=64)), "bold", progress=False)
    return store


def test_the_bonus_of_a_place_ends_where_the_robot_has_been(tmp_path):
    # mutation: fit on the offline data alone; lay out the old labels
    data = offline(tmp_path / "data")
    cache = open_cache(data, progress=False)
    own = {f"e{seed}": episode(10 + seed, far=True, success=False) for seed in range(3)}
    labelled = Relabelled(data, cache, "bold", lambda name, images: own[name])
    unlabelled = slice(int(cache.step_start[2]), None)
    before = labelled.labels
    labelled.refit([])
    np.testing.assert_array_equal(labelled.labels.reward, before.reward)  # the same data, the same labels
    labelled.refit(list(own))
    after = labelled.labels
    assert after.reward[unlabelled].mean() < 0.2 * before.reward[unlabelled].mean()
    np.testing.assert_array_equal(after.reward[: unlabelled.start], before.reward[: unlabelled.start])
    assert (after.name, after.hash) == (before.name, before.hash)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    offline(folder / "data")
    return save_models(folder), str(folder / "data")


def job(site, folder, every, rounds=4):
    models, data = site
    schedule = Schedule(
        folder=str(folder), episodes=2 * rounds, per_round=2, ratio=0.25, batch_size=16, evaluate_every=0, keep=9,
        relabel_every=every, progress=False, tensorboard=False, device="cpu",
    )  # fmt: skip
    arm = Arm("online", "argmax", n=3, critic=MAIN)
    return OnlineJob(PointConfig(), *models, data=data, labels="bold", arm=arm, schedule=schedule, batch_size=2)


def weights(folder):
    return checkpoint.load(checkpoint.newest(folder)).tensors


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "write_page", lambda *_: None)
        train_online(job(site, folder, 2), Here())
    return folder


def test_labels_are_said_anew_every_so_many_rounds_from_the_episodes_before(site, tmp_path, monkeypatch):
    # mutation: every round; the episodes of the round that is being played
    told, refit = [], Relabelled.refit
    monkeypatch.setattr(Relabelled, "refit", lambda self, names: (told.append(list(names)), refit(self, names)))
    train_online(job(site, tmp_path, 2, rounds=5), Here())
    names = [each["names"] for each in json.loads((tmp_path / "progress.json").read_text())["rounds"]]
    assert told == [[*names[0], *names[1]], [*names[0], *names[1], *names[2], *names[3]]]


class Crash(Exception):
    pass


@pytest.mark.parametrize("after", [2, 3])
def test_a_run_that_was_cut_off_has_the_labels_that_it_had(site, tmp_path, whole, after, monkeypatch):
    # mutation: keep the fitted labels in memory only; begin the draws of offline data anew
    with monkeypatch.context() as patch:
        patch.setattr(Online, "_book", _crash_after(after))
        with pytest.raises(Crash):
            train_online(job(site, tmp_path, 2), Here())
    train_online(job(site, tmp_path, 2), Here())
    assert same(weights(tmp_path), weights(whole))


def _crash_after(rounds):
    original = Online._book

    def book(self, number, *rest):
        if number > rounds:
            raise Crash
        return original(self, number, *rest)

    return book


def test_labels_that_leave_nothing_to_learn_from_are_refused_with_a_word(tmp_path):
    # mutation: ask None for its position
    with EpisodeStore.create(tmp_path / "data", SPEC) as store:
        store.append(episode(0, far=False, success=True))
    cache, said = open_cache(store, progress=False), []
    make = lambda cache, size, seed: None if said else ChunkSampler(cache, 4, batch_size=size, seed=seed)  # noqa: E731
    sampler = GrowingSampler(make, {}.get, Grown(SPEC), cache, 8, 0.5, 0, refit=said.append)
    with pytest.raises(ValueError, match="relabel_every: expected labels by which offline data are learned from"):
        sampler.relabel(["own"])


def test_without_it_the_labels_stay_as_they_were_written(site, tmp_path, whole):
    # mutation: relabel_every is never read
    train_online(job(site, tmp_path, 0), Here())
    assert not same(weights(tmp_path), weights(whole))


def test_it_needs_data_and_their_labels(site, tmp_path):
    # mutation: fail in the middle of the run
    asked = job(site, tmp_path, 2)
    for changes in ({"labels": ""}, {"data": ""}, {"schedule": replace(asked.schedule, streaming=True)}):
        with pytest.raises(ValueError, match="relabel_every: expected data, labels of it"):
            replace(asked, **changes)
