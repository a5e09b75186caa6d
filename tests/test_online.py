"""Online learning in rounds: which weights played which episode never depends on speed, interruption or a crash."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from online_fakes import Here, PointConfig, save_models
from recorded import make_episode, make_spec

from robot_value import checkpoint
from robot_value.arms import MAIN
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.online import learning
from robot_value.online.growing_sampler import GrowingSampler
from robot_value.online.grown import Grown
from robot_value.online.learning import OnlineJob, Schedule, train_online
from robot_value.sampling import ChunkSampler
from robot_value.training import Interrupted

SCHEDULE = Schedule(
    episodes=8, per_round=2, ratio=0.25, batch_size=16, evaluate_every=2, evaluate_episodes=2, progress=False,
    tensorboard=False, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


def job(models, folder, robot=None, **changes):
    policy, critic = models
    arm = Arm("online", "argmax", n=3, critic=MAIN)
    schedule = replace(SCHEDULE, folder=str(folder), **changes)
    return OnlineJob(robot or PointConfig(), policy, critic, arm=arm, schedule=schedule, batch_size=2)


def weights(folder):
    """Everything the last version consists of."""
    newest = checkpoint.newest(Path(folder))
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def progress(folder):
    return json.loads((Path(folder) / "progress.json").read_text())


def without_times(folder):
    """What does not depend on how fast the machine was."""
    told = progress(folder)
    return [{k: v for k, v in e.items() if k not in ("seconds", "names")} for e in told["rounds"] + told["evaluations"]]


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """Nobody looks at it here, and it takes as long as the run."""
    monkeypatch.setattr(learning, "write_page", lambda *_: None)


# -- rounds ------------------------------------------------------------------------------------------------------------


def test_every_episode_says_which_weights_played_it_and_they_lag_one_round(models, tmp_path):
    # mutation: play round r with what was learned from round r - 1, or keep the first version for ever
    train_online(job(models, tmp_path), Here())
    store = EpisodeStore.open(tmp_path / "episodes")
    by_round = {}
    for name in store.names():
        episode = store.read(name)
        made = episode.provenance
        by_round.setdefault(made["round"], set()).add((made["version"], episode.decisions[0].versions["critic"]))
    assert sorted(by_round) == [1, 2, 3, 4] and len(store.names()) == 8
    assert [{version for version, _ in by_round[r]} for r in (1, 2, 3, 4)] == [{0}, {1}, {2}, {3}]
    hashes = [critic for r in (1, 2, 3, 4) for _, critic in by_round[r]]
    assert hashes[0] == hashes[1]  # nothing was there to learn from while round 1 was played
    assert len(set(hashes)) == 3


def test_there_are_as_many_updates_as_the_ratio_says(models, tmp_path):
    # mutation: forget the steps of the last round but one
    train_online(job(models, tmp_path, ratio=0.5), Here())
    rounds = progress(tmp_path)["rounds"]
    steps = np.cumsum([0, *[sum(r["steps"]) for r in rounds]])
    assert [r["update"] for r in rounds] == [round(0.5 * n) for n in steps[:4]]


def test_evaluation_seeds_are_played_by_the_newest_version_and_not_learned_from(models, tmp_path):
    # mutation: evaluate into the store
    actor = Here()
    train_online(job(models, tmp_path, evaluate_episodes=3), actor)
    trials = [(each.version.number, each.seeds) for acting, each in actor.calls if acting.store is None]
    assert trials == [(number, seeds) for number in (0, 0, 2, 4) for seeds in [(1000, 1001), (1002,)]]
    told = progress(tmp_path)["evaluations"]
    assert [(e["version"], e["verdict"]) for e in told] == [(None, "plain"), *((n, "passed") for n in (0, 2, 4))]
    assert len(EpisodeStore.open(tmp_path / "episodes").names()) == 8


def test_every_decision_says_which_version_made_it(models, tmp_path):
    # mutation: count versions from 1, or number the round
    train_online(job(models, tmp_path, evaluate_every=0), Here())
    store = EpisodeStore.open(tmp_path / "episodes")
    for name in store.names():
        episode = store.read(name)
        told = {decision.versions["online"] for decision in episode.decisions}
        assert told == {str(episode.provenance["version"])} == {str(episode.provenance["round"] - 1)}


def test_unstable_episodes_are_kept_and_not_learned_from(models, tmp_path):
    # mutation: Known.unstable is never asked
    seeds = (SCHEDULE.first_seed + 1, SCHEDULE.first_seed + 2)
    train_online(job(models, tmp_path, PointConfig(unstable=seeds)), Here())
    assert len(EpisodeStore.open(tmp_path / "episodes").names()) == 8
    assert [len(r["names"]) for r in progress(tmp_path)["rounds"]] == [1, 1, 2, 2]


@pytest.mark.parametrize("learn", ["critic", "policy", "both"])
def test_critic_policy_or_both_learn_and_the_rest_stays(models, tmp_path, learn):
    # mutation: always save the critic
    train_online(job(models, tmp_path, learn=learn, episodes=6), Here())
    root = tmp_path
    kinds = (
        {"": checkpoint.newest(root)}
        if learn != "both"
        else {n: checkpoint.newest(root / n) for n in ("policy", "critic")}
    )
    assert all(kinds.values())
    if learn != "both":
        assert checkpoint.load(kinds[""]).kind == {"critic": "critics", "policy": "policies"}[learn]
    name = EpisodeStore.open(root / "episodes").names()[-1]
    used = EpisodeStore.open(root / "episodes").read(name).decisions[0].versions
    first = {"policy": checkpoint.verify(models[0])[:12], "critic": checkpoint.verify(models[1])[:12]}
    changed = {key for key in first if first[key] not in used[key]}
    assert changed == ({"policy", "critic"} if learn == "both" else {learn})


def test_learning_from_nothing_is_refused_with_what_to_do(models, tmp_path):
    # mutation: sample from an empty sampler
    with pytest.raises(ValueError, match="expected offline data or a recorded episode"):
        train_online(job(models, tmp_path, first_updates=3), Here())
    with pytest.raises(ValueError, match="expected a critic to start from"):
        train_online(replace(job(models, tmp_path / "b"), critic=""), Here())


# -- interruption and crashes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train_online(job(models, folder), Here())
    return folder


class Stopping(Here):
    """Ctrl-C while round `at` is being played."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def submit(self, function, *arguments):
        if arguments[1].number == self.at:  # evaluations are round 0
            os.kill(os.getpid(), signal.SIGINT)
        return super().submit(function, *arguments)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_weights_bit_for_bit(models, tmp_path, whole, at):
    # mutation: do not save the sampler's position, or the generator
    with pytest.raises(Interrupted):
        train_online(job(models, tmp_path), Stopping(at))
    assert len(progress(tmp_path)["rounds"]) == at
    train_online(job(models, tmp_path), Here())
    assert weights(tmp_path)["model.safetensors"] == weights(whole)["model.safetensors"]
    assert without_times(tmp_path) == without_times(whole)


def test_an_interrupted_run_of_both_goes_on_to_the_same_weights_bit_for_bit(models, tmp_path):
    # mutation: load what critic and policy share once for each: the second time its episodes are there already
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_online(job(models, whole, learn="both"), Here())
    for at in (2, 3):
        with pytest.raises(Interrupted):
            train_online(job(models, cut, learn="both"), Stopping(at))
        assert len(progress(cut)["rounds"]) == at
    train_online(job(models, cut, learn="both"), Here())
    for part in ("policy", "critic"):
        assert weights(cut / part)["model.safetensors"] == weights(whole / part)["model.safetensors"]
    assert without_times(cut) == without_times(whole)


class Crash(Exception):
    pass


class Crashing(Here):
    """The process dies at the n-th thing the actor is asked for, before or after it was done."""

    def __init__(self, n, after):
        super().__init__()
        self.n, self.after = n, after

    def submit(self, function, *arguments):
        self.n -= 1
        if self.n == 0 and not self.after:
            raise Crash
        done = super().submit(function, *arguments)
        if self.n == 0:
            raise Crash
        return done


@pytest.mark.parametrize(  # two trials, two rounds, a trial, two rounds, a trial
    ("n", "after"), [(2, False), (3, True), (4, False), (4, True), (5, False), (5, True), (7, True)]
)
def test_a_crash_anywhere_loses_no_stored_episode_and_changes_nothing(models, tmp_path, whole, n, after):
    # mutation: play recorded seeds again; take a round's episodes twice
    with pytest.raises(Crash):
        train_online(job(models, tmp_path), Crashing(n, after))
    there = set(EpisodeStore.open(tmp_path / "episodes").names()) if (tmp_path / "episodes").exists() else set()
    train_online(job(models, tmp_path), Here())
    store = EpisodeStore.open(tmp_path / "episodes")
    assert there <= set(store.names()) and len(store.names()) == 8
    assert weights(tmp_path)["model.safetensors"] == weights(whole)["model.safetensors"]
    assert without_times(tmp_path) == without_times(whole)


def test_a_crash_between_the_weights_and_the_words_about_them_changes_nothing(models, tmp_path, whole):
    # mutation: write progress.json before the checkpoint, or count the round's updates again
    train_online(job(models, tmp_path, episodes=6), Here())
    told = progress(tmp_path)
    del told["rounds"][-1], told["evaluations"][-1]
    (tmp_path / "progress.json").write_text(json.dumps(told))
    train_online(job(models, tmp_path), Here())
    assert weights(tmp_path)["model.safetensors"] == weights(whole)["model.safetensors"]


# -- the growing data --------------------------------------------------------------------------------------------------


def episodes(spec, count=5):
    return [
        make_episode(spec, 3 + 2 * i, seed=i, terminated=bool(i % 2), success=[True, False, None][i % 3])
        for i in range(count)
    ]


def test_grown_data_equal_the_stores_own_cache(tmp_path):
    # mutation: add() without success, or tasks numbered anew each time
    spec, grown = make_spec(cameras=("wrist",)), None
    store = EpisodeStore.create(tmp_path / "s", spec)
    for episode in episodes(spec):
        store.append(episode)
    expected = open_cache(store, progress=False)
    grown = Grown(spec, expected.tasks)
    for name in expected.names:
        grown.add(name, store.read(name))
    got = grown.cache()
    for field in (
        "state",
        "action",
        "reward",
        "source",
        "steps",
        "frames",
        "terminated",
        "truncated",
        "success",
        "task",
    ):
        np.testing.assert_array_equal(getattr(got, field), getattr(expected, field), err_msg=field)
    np.testing.assert_array_equal(got.images["wrist"], expected.images["wrist"])
    assert got.tasks == expected.tasks and got.names == expected.names


def test_adding_does_not_change_what_was_handed_out():
    # mutation: hand out the whole capacity
    spec = make_spec()
    grown = Grown(spec)
    grown.add("a", make_episode(spec, 50, seed=0))
    before, kept = grown.cache(), grown.cache().state.copy()
    for i in range(10):
        grown.add(f"b{i}", make_episode(spec, 50, seed=i + 1))
    np.testing.assert_array_equal(before.state, kept)
    assert len(grown.cache().action) == 550 == grown.steps


def growing(offline, share=0.5, read=None, batch_size=8, given=None):
    spec = make_spec()
    known = {f"e{i}": episode for i, episode in enumerate(episodes(spec))}
    make = lambda cache, size, seed: ChunkSampler(cache, 4, batch_size=size, seed=seed)  # noqa: E731
    return GrowingSampler(make, read or known.__getitem__, Grown(spec), offline, batch_size, share, 3, given)


@pytest.fixture
def offline(tmp_path):
    spec = make_spec()
    store = EpisodeStore.create(tmp_path / "offline", spec)
    for i in range(4):
        store.append(make_episode(spec, 9, seed=100 + i, states=np.full((10, 3), 7, np.float32)))
    return open_cache(store, progress=False)


def is_offline(batch):
    return (batch.observation.state == 7).all(-1).all(-1)


@pytest.mark.parametrize(("share", "rows"), [(0.5, 4), (0.25, 2), (1.0, 8), (0.0, 0)])
def test_every_batch_holds_the_shares_that_were_asked_for(offline, share, rows):
    # mutation: swap the shares
    sampler = growing(offline, share)
    if share:
        assert is_offline(sampler.sample()).all()  # nothing else is there yet
    sampler.take(["e0", "e1"])
    for _ in range(5):
        assert int(is_offline(sampler.sample()).sum()) == rows


def test_without_offline_data_all_rows_are_online(offline):
    # mutation: keep the share
    sampler = growing(None)
    sampler.take(["e0"])
    assert len(sampler.sample().chunks) == 8


def test_a_saved_sampler_brings_the_same_batches_back(offline):
    # mutation: seed the online part by the process's own count
    first = growing(offline)
    first.take(["e0", "e1"])
    first.sample()
    first.take(["e2"])
    first.take(["e2"])  # again, after a crash: nothing new
    first.sample()
    state = json.loads(json.dumps(first.state()))
    second = growing(offline)
    second.load_state(state)
    for _ in range(3):
        a, b = first.sample(), second.sample()
        assert torch.equal(a.chunks, b.chunks) and torch.equal(a.observation.state, b.observation.state)


def test_demonstrations_that_are_given_mid_run_join_the_offline_half(offline):
    # mutation: give them the online half; seed them like online episodes; forget them in the state
    spec = make_spec()
    shown = {f"d{i}": make_episode(spec, 9, seed=50 + i, states=np.full((10, 3), 5, np.float32)) for i in range(4)}

    def fresh():
        return growing(offline, batch_size=16, given=(shown.__getitem__, Grown(spec)))

    sampler = fresh()
    sampler.take(["e0", "e1"])
    sampler.give(["d0"])
    sampler.give(["d0", "d1", "d2", "d3"])
    batch = sampler.sample()
    given = (batch.observation.state == 5).all(-1).all(-1)
    assert int(given.sum()) == 4 and int(is_offline(batch).sum()) == 4  # as many starts, so half of the offline half
    state = json.loads(json.dumps(sampler.state()))
    second = fresh()
    second.load_state(state)
    for _ in range(3):
        a, b = sampler.sample(), second.sample()
        assert torch.equal(a.chunks, b.chunks) and torch.equal(a.observation.state, b.observation.state)


def test_demonstrations_make_an_offline_half_where_there_was_none():
    # mutation: the share is decided once and for all without offline data
    spec = make_spec()
    shown = {"d0": make_episode(spec, 9, seed=50, states=np.full((10, 3), 7, np.float32))}
    sampler = growing(None, given=(shown.__getitem__, Grown(spec)))
    sampler.take(["e0"])
    assert not is_offline(sampler.sample()).any()
    sampler.give(["d0"])
    assert int(is_offline(sampler.sample()).sum()) == 4


def test_a_sampler_that_has_no_row_to_give_is_not_ready(offline):
    # mutation: ready as soon as there is an episode, whatever share of the batch it may fill
    spec = make_spec()
    shown = {"d0": make_episode(spec, 9, seed=50)}
    sampler = growing(None, share=1.0, given=(shown.__getitem__, Grown(spec)))
    assert growing(offline).ready and not sampler.ready
    sampler.take(["e0"])
    assert not sampler.ready  # all rows are for demonstrations
    sampler.give(["d0"])
    assert sampler.ready and len(sampler.sample().chunks) == 8
