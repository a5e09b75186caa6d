"""Every algorithm of docs/online/algorithms.md learns online from offline weights, with its published settings.

The settings are the benchmark's own (benchmarks/online_protocol.py); only the networks of critics are small here.
"""

import json
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from online_fakes import Here, PointConfig

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from online_protocol import ALGORITHMS, Protocol

from robot_value import checkpoint, flags
from robot_value.arms import MAIN
from robot_value.collect import collect
from robot_value.commands import _train_online, train
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.fit import Job, Windowing, fit
from robot_value.labelers import explore
from robot_value.labels.run import label
from robot_value.labels.small_network import FitConfig
from robot_value.learners import Joint
from robot_value.online.learning import OnlineJob, Schedule, train_online
from robot_value.online.stream import transitions
from robot_value.scenarios import Part
from robot_value.training import TrainConfig, load_model

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "online" / "algorithms.md"
TINY = Protocol(hidden=(8,), offline_steps=2)
BY_NAME = {algorithm.name: algorithm for algorithm in ALGORITHMS}
PARTS = {"critic": ("",), "policy": ("",), "both": ("policy", "critic")}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Episodes of the point robot's expert, and a flow that has seen them for two steps."""
    folder = tmp_path_factory.mktemp("offline")
    collect(PointConfig(), folder / "episodes", 4, batch_size=2, progress=False)
    return folder, fit(job(folder, Part("flow", {"width": 16, "depth": 1}).config("policies"), folder / "flow"))


def job(folder, config, out, **more):
    training = TrainConfig(
        str(out), 2, 16, threads=1, device="cpu", matmul="default", progress=False, tensorboard=False
    )
    return Job(str(folder / "episodes"), config, training, Windowing(horizon=4), **more)


def models(algorithm, offline, out):
    """As benchmarks/online_cells.make_offline."""
    folder, flow = offline
    if algorithm.critic is None:
        return flow, ""
    asked = job(folder, algorithm.critic_config(TINY, 0), out, base=str(flow))
    if algorithm.policy is None:
        return flow, fit(asked)
    fit(replace(asked, policy=algorithm.policy_config(0), joint=Joint(**algorithm.joint)))
    return checkpoint.newest(out / "policy"), checkpoint.newest(out / "critic")


def online(algorithm, first, data, folder, schedule=(), actor=None, **more):
    """Three rounds of two episodes from the models in `first`."""
    tiny = {"episodes": 6, "per_round": 2, "ratio": 0.1, "batch_size": 8, "evaluate_every": 0, "keep": 9}
    quiet = {"progress": False, "tensorboard": False, "device": "cpu"}
    asked = Schedule(folder=str(folder), learn=algorithm.learn, **tiny | quiet | dict(schedule))
    judged = MAIN if first["critic"] else None
    arm = Arm(algorithm.name, algorithm.selector, dict(algorithm.options), algorithm.n, critic=judged)
    told = {"policy": str(first["policy"]), "critic": str(first["critic"]), "data": str(data), "arm": arm}
    joint = Joint(**algorithm.joint)
    train_online(OnlineJob(PointConfig(), schedule=asked, joint=joint, batch_size=2, **told, **more), actor or Here())
    return folder


@pytest.fixture(scope="module")
def played(offline, tmp_path_factory):
    """name -> (the run's folder, what it started from); each algorithm is played once."""

    @cache
    def run(name):
        out = tmp_path_factory.mktemp(name)
        policy, critic = models(BY_NAME[name], offline, out / "offline")
        first = {"policy": policy, "critic": critic}
        return online(BY_NAME[name], first, offline[0] / "episodes", out / "run"), first

    return run


@pytest.mark.parametrize("name", BY_NAME)
def test_every_algorithm_learns_and_acts_with_what_it_learned(name, played):
    # mutation: acting.play loads job.policy in every round; learner_of trains the critic where the policy should learn
    algorithm, (run, first) = BY_NAME[name], played(name)
    rounds = json.loads((run / "progress.json").read_text())["rounds"]
    step, acted = f"step_{rounds[1]['update']:08d}", versions(run, rounds[2])
    for part in PARTS[algorithm.learn]:
        kind = part or algorithm.learn
        before, after = checkpoint.load(first[kind]), checkpoint.load(run / part / step)
        assert any(not torch.equal(before.tensors[k], after.tensors[k]) for k in after.tensors)
        if kind == "policy" or algorithm.selector != "first":  # a critic that nobody asks while acting is not named
            assert after.hash[:12] in acted[kind]


def versions(run, told):
    return EpisodeStore.open(run / "episodes").read(told["names"][0]).decisions[0].versions


@pytest.mark.parametrize("name", ["rlpd", "qc_fql", "expo", "dsrl", "ro2o", "aloe"])
def test_a_flow_that_was_frozen_offline_stays_frozen_online(name, offline, played):
    # mutation: `adopted` is not saved, so that noise, edit and one_step go on cloning into a flow that should be fixed
    newest, flow = checkpoint.load(checkpoint.newest(played(name)[0] / "policy")), checkpoint.load(offline[1])
    same = [torch.equal(newest.tensors[f"base.{key}"], tensor) for key, tensor in flow.tensors.items()]
    assert all(same) == (name != "aloe")  # ALOE's actor is the flow itself


def test_prior_data_without_rewards_teach_by_explores_labels(offline, played, tmp_path):
    # mutation: sampler_of drops `labels`, or gives them to the online half
    recorded, mixed = EpisodeStore.open(offline[0] / "episodes"), tmp_path / "mixed"
    store = EpisodeStore.create(mixed, recorded.spec)
    for i, name in enumerate(recorded.names()):  # one episode's outcome is known, of the others nothing is
        unknown = {"success": None, "rewards": np.zeros(len(recorded.read(name)), np.float32)} if i else {}
        store.append(replace(recorded.read(name), **unknown))
    label(store, "explore", explore.Config(fit=FitConfig((8,), steps=5)), "bold", progress=False)
    algorithm, few, runs = BY_NAME["qc_fql"], {"episodes": 2, "first_updates": 2}, {}
    for labels in ("", "bold"):
        folder = online(algorithm, played("qc_fql")[1], mixed, tmp_path / f"run_{labels}", few, labels=labels)
        runs[labels] = checkpoint.load(checkpoint.newest(folder / "critic")).tensors
    assert any(not torch.equal(runs[""][key], runs["bold"][key]) for key in runs[""])


@pytest.mark.parametrize("name", ["cqn_as", "arsq"])
def test_a_critic_that_is_its_own_policy_acts_in_every_round_as_it_has_learned(name, offline, tmp_path):
    # mutation: _newest replaces the critic alone, so that the offline policy acts for ever
    critic = fit(job(offline[0], Part(name, {"hidden": [8], "levels": 2}).config("critics"), tmp_path / "critic"))
    asked = SimpleNamespace(name=name, learn="critic", selector="first", options={}, n=1, joint={})
    run = online(asked, {"policy": critic, "critic": critic}, offline[0] / "episodes", tmp_path / "run")
    rounds = json.loads((run / "progress.json").read_text())["rounds"]
    acted = [versions(run, each)["policy"] for each in rounds]
    assert acted[0] == acted[1] == load_model(critic).version  # before anything was there to learn from
    assert acted[2] == load_model(run / f"step_{rounds[1]['update']:08d}").version != acted[0]


class Crashing(Here):
    """The process dies when the actor is asked for the n-th round."""

    def submit(self, function, *arguments):
        if len(self.calls) == 2:
            raise KeyboardInterrupt
        return super().submit(function, *arguments)


def test_without_replay_every_executed_chunk_is_learned_from_once_however_often_the_run_is_begun(
    offline, played, tmp_path
):
    # mutation: _updates by the ratio; due counts what waits; traces not saved
    first, runs = played("cal_ql")[1], [tmp_path / name for name in ("whole", "cut")]
    told = {"algorithm": BY_NAME["cal_ql"], "first": first, "data": offline[0] / "episodes"}
    with pytest.raises(KeyboardInterrupt):
        online(folder=runs[1], schedule={"streaming": True}, actor=Crashing(), **told)
    for run in runs:
        online(folder=run, schedule={"streaming": True}, **told)
    rounds = json.loads((runs[0] / "progress.json").read_text())["rounds"]
    store, critic = EpisodeStore.open(runs[0] / "episodes"), load_model(first["critic"])
    learned = [store.read(name) for each in rounds[:2] for name in each["names"]]
    chunks = sum(len(list(transitions(each, critic.scope, critic.gamma, 1))) for each in learned)
    assert rounds[-1]["update"] == chunks > 0
    whole, cut = (load_model(run) for run in runs)
    assert whole.statistics["state"].count == critic.statistics["state"].count + chunks
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), critic.parameters(), strict=True))


def test_every_command_and_link_of_the_page_leads_somewhere():
    # mutation: --schedule.replay=false in docs/online/algorithms.md
    text = PAGE.read_text(encoding="utf-8")
    for line in re.findall(r"^robot-value train .*$", text, re.MULTILINE):
        words = line.split()[2:]
        online = words[0] == "online"
        command, choices = (
            (_train_online.TrainOnline, _train_online.CHOICES) if online else (train.Train, train.CHOICES)
        )
        flags.parse(command, words[online:], choices)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (PAGE.parent / link).exists(), link


def test_the_page_names_every_algorithm_with_the_flags_it_is_run_with():
    # mutation: leave an algorithm out, or write --n=16 where the benchmark takes 8
    text = PAGE.read_text(encoding="utf-8")
    for algorithm in ALGORITHMS:
        assert re.search(rf"^\| `{algorithm.name}` \|", text, re.MULTILINE), algorithm.name
        assert f"`{algorithm.online_flags}`" in text, algorithm.online_flags
        assert algorithm.critic is None or f"`{algorithm.offline_flags}`" in text, algorithm.offline_flags


@pytest.mark.parametrize("name", BY_NAME)
def test_the_flags_of_every_algorithm_make_the_settings_it_was_measured_with(name):
    # mutation: online_flags without --n; offline_flags without the policy's values
    algorithm = BY_NAME[name]
    online = flags.parse(_train_online.TrainOnline, algorithm.online_flags.split(), _train_online.CHOICES).values
    assert (online.schedule.learn, online.joint) == (algorithm.learn, Joint(**algorithm.joint))
    if algorithm.critic:
        assert (online.n, type(online.selector).__module__.rpartition(".")[2]) == (algorithm.n, algorithm.selector)
        assert all(getattr(online.selector, name) == value for name, value in algorithm.options.items())
        told = flags.parse(train.Train, algorithm.offline_flags.split(), train.CHOICES).values
        assert told.critic == algorithm.critic.config("critics")
        assert algorithm.policy is None or told.policy == algorithm.policy.config("policies")
