"""Guard rails of online learning: bad gradient steps are not made, worse versions do not stay."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from online_fakes import Here, PointConfig, save_models
from scipy.integrate import quad

from robot_value import checkpoint
from robot_value.arms import MAIN
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.learners import CriticLearner, PolicyLearner
from robot_value.online import learning
from robot_value.online.acting import Played
from robot_value.online.guard_rails import Diverged, GuardRails, Rails, check_finite, evidence, evidence_of
from robot_value.online.learning import OnlineJob, Schedule, train_online
from robot_value.training import load_model

SCHEDULE = Schedule(
    episodes=8, per_round=2, ratio=0.25, batch_size=16, evaluate_every=1, evaluate_episodes=10, progress=False,
    tensorboard=False, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """Nobody looks at it here, and it takes as long as the run."""
    monkeypatch.setattr(learning, "write_page", lambda *_: None)


def job(models, folder, rails=None, **changes):
    policy, critic = models
    schedule = replace(SCHEDULE, folder=str(folder), **changes)
    arm = Arm("online", "argmax", n=3, critic=MAIN)
    return OnlineJob(
        PointConfig(), policy, critic, arm=arm, schedule=schedule, batch_size=5, rails=rails or GuardRails()
    )


def progress(folder):
    return json.loads((Path(folder) / "progress.json").read_text())


# -- gradient steps ----------------------------------------------------------------------------------------------------


class Scripted:
    """A model whose loss is what the script says times a weight: loss and gradient norm are known."""

    def __init__(self, learner):
        self.learner, self.scale = learner, 1.0
        real = learner.model.loss
        learner.model.loss = lambda batch, generator=None: self._scaled(real(batch, generator))

    def _scaled(self, found):
        return found[0] * self.scale, found[1]


def everything(part):
    """All that an update may change, flat; a learning rate follows from the count of steps."""
    state, found = [part.state(), part.deployed.state_dict(), part.model.state_dict()], []
    while state:
        item = state.pop()
        if isinstance(item, dict | list):
            state += item if isinstance(item, list) else [value for key, value in item.items() if key != "lr"]
        else:
            found.append(item.clone() if isinstance(item, torch.Tensor) else item)
    return found


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def batch(models, tmp_path_factory):
    """Windows of a few episodes of the point robot."""
    asked = job(models, tmp_path_factory.mktemp("batch"), episodes=2, evaluate_every=0)
    train_online(asked, Here())
    return learning.Online(asked).sampler.sample()


@pytest.mark.parametrize("kind", ["critic", "policy"])
@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e9])
def test_a_refused_step_changes_nothing_and_the_next_good_one_does(models, batch, kind, scale):
    # mutation: judge after optimizer.step(), or count the step, or move the averages anyway
    model = load_model(models[kind == "critic"])
    learner = CriticLearner(model) if kind == "critic" else PolicyLearner(model, 1000)
    scripted, generator = Scripted(learner), torch.Generator().manual_seed(0)
    rails = Rails(GuardRails(), learner)
    for _ in range(25):
        assert rails.update(batch, generator) is not None
    before, scripted.scale = everything(learner), scale
    assert rails.update(batch, generator) is None
    assert same(before, everything(learner)) and (rails.refused, rails.in_a_row) == (1, 1)
    scripted.scale = 1.0
    assert rails.update(batch, generator) is not None
    assert not same(before, everything(learner)) and (rails.refused, rails.in_a_row) == (1, 0)


def test_what_is_usual_is_learned_first_and_refused_steps_are_not_usual():
    # mutation: judge from the first step on; remember refused values
    rails = Rails(GuardRails(explosion=10), Nobody())
    one = torch.tensor(1.0)
    for _ in range(20):
        rails.judge("critic", 5000 * one, one)  # large from the beginning: that is how large it is here
    for _ in range(60):
        with pytest.raises(ArithmeticError, match="critic loss: expected at most 5e\\+04, got 6e\\+04"):
            rails.judge("critic", 60000 * one, one)
    with pytest.raises(ArithmeticError, match="critic gradient: expected at most 10, got 11"):
        rails.judge("critic", 5000 * one, 11 * one)
    rails.judge("critic", -5000 * one, 9 * one)
    rails.judge("policy", 1e6 * one, one)  # another part, another size


class Nobody:
    """A learner of nothing."""

    def __init__(self):
        self.parts = {}


def test_too_many_refusals_in_a_row_stop_the_run_with_good_checkpoints(models, tmp_path, monkeypatch):
    # mutation: never stop; save what was there at the stop
    train_online(job(models, tmp_path, episodes=4), Here())
    good = checkpoint.newest(tmp_path)
    monkeypatch.setattr(learning, "Rails", broken_from(0))
    with pytest.raises(Diverged, match="the last 2 gradient steps were refused, the last one for its loss: expected"):
        train_online(job(models, tmp_path, GuardRails(refusals=2), ratio=1.0), Here())
    assert checkpoint.newest(tmp_path) == good and checkpoint.verify(good)
    assert "gradient steps were refused" in progress(tmp_path)["stopped"]
    monkeypatch.undo()
    train_online(job(models, tmp_path, GuardRails(refusals=2), ratio=1.0), Here())  # mended: the same command goes on
    assert progress(tmp_path)["stopped"] == "" and len(progress(tmp_path)["rounds"]) == 4


def broken_from(first, every=1):
    """Rails whose learner's loss is NaN at every n-th update from the first on."""

    def make(config, learner):
        scripted, rails = Scripted(learner), Rails(config, learner)
        count, real = iter(range(10**9)), learner.update

        def update(batch, generator):
            i = next(count)
            scripted.scale = math.nan if i >= first and i % every == 0 else 1.0
            return real(batch, generator)

        learner.update = update
        return rails

    return make


def test_refused_steps_are_counted_in_progress_also_across_an_interruption(models, tmp_path, monkeypatch):
    # mutation: begin to count anew after a resume
    monkeypatch.setattr(learning, "Rails", broken_from(0, every=3))
    train_online(job(models, tmp_path, episodes=6, ratio=0.5, evaluate_every=0), Here())
    before = [each["refused"] for each in progress(tmp_path)["rounds"]]
    assert (
        before[0] == 0
        and before == sorted(before)
        and before[-1] == -(-progress(tmp_path)["rounds"][-1]["update"] // 3)
    )
    monkeypatch.undo()
    train_online(job(models, tmp_path, ratio=0.5, evaluate_every=0), Here())
    assert progress(tmp_path)["rounds"][-1]["refused"] == before[-1]


def test_weights_that_are_not_numbers_are_neither_saved_nor_played(models):
    # mutation: look at parameters only, or at the trained copy only
    learner = PolicyLearner(load_model(models[0]), 1000)
    check_finite([learner])
    next(iter(learner.deployed.parameters())).data[0] = torch.nan
    with pytest.raises(Diverged, match="expected finite weights"):
        check_finite([learner])


# -- the sequential test -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (0, 5), (3, 1), (2, 9), (40, 10), (0, 300)])
def test_evidence_is_the_integral_it_says(wins, losses):
    # mutation: swap wins and losses; integrate from 0
    density = lambda p: 2 * (2 * p) ** losses * (2 * (1 - p)) ** wins  # noqa: E731
    assert evidence(wins, losses) == pytest.approx(quad(density, 0.5, 1, limit=500)[0], rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_version_that_is_no_worse_is_rolled_back_with_chance_alpha_at_most_however_often_one_looks(share):
    # mutation: 2 * evidence; a test made for one look
    alpha, alive, caught = 0.05, {(0, 0): 1.0}, 0.0
    for _ in range(150):  # seeds that only one of both solves
        following = {}
        for (wins, losses), chance in alive.items():
            for step, part in (((wins + 1, losses), 1 - share), ((wins, losses + 1), share)):
                following[step] = following.get(step, 0.0) + chance * part
        caught += sum(chance for step, chance in following.items() if evidence(*step) >= 1 / alpha)
        alive = {step: chance for step, chance in following.items() if evidence(*step) < 1 / alpha}
    assert 0 < caught <= alpha


def test_its_expectation_is_one_where_both_are_equally_good():
    # mutation: leave out the factor 2 (the prior's density)
    flips = list(product((False, True), repeat=8))
    mean = np.mean([evidence_of(flip, [not x for x in flip]) for flip in flips])
    assert mean == pytest.approx(1.0)


def test_seeds_that_both_or_neither_solve_say_nothing():
    # mutation: compare rates instead of pairs
    assert evidence_of([True, False, True], [True, False, True]) == evidence(0, 0) == 1.0
    assert evidence_of([False] * 3, [True] * 3 + [True] * 9) == evidence(0, 3)


# -- versions on trial -------------------------------------------------------------------------------------------------


class Judge(Here):
    """Episodes are played as they are; on trial, who solves what is what the test says. "plain" is the never gate."""

    def __init__(self, solved):
        super().__init__()
        self.solved = solved

    def submit(self, function, acting, round):
        if acting.store is not None:
            return super().submit(function, acting, round)
        who = "plain" if acting.arm.gate == "never" else round.version.number
        first, share = SCHEDULE.evaluate_seed, self.solved.get(who, 1.0)
        success = tuple(seed - first < share * SCHEDULE.evaluate_episodes for seed in round.seeds)
        return super().submit(lambda *_: Played((), success, (1,) * len(success)), acting, round)


def weights(folder):
    return checkpoint.load(folder).tensors


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def versions(folder):
    """By round: who acted, and with which gate's word."""
    store, found = EpisodeStore.open(Path(folder) / "episodes"), {}
    for name in store.names():
        episode = store.read(name)
        reasons = {reason for decision in episode.decisions for reason in decision.reason}
        found.setdefault(episode.provenance["round"], set()).add(
            (episode.provenance["version"], episode.decisions[0].versions["critic"], *sorted(reasons))
        )
    return {number: next(iter(each)) for number, each in found.items() if len(each) == 1}


BAD = {2: 0.0}  # version 2 solves nothing


def test_a_worse_version_is_rolled_back_to_the_weights_that_passed_and_numbers_go_up(models, tmp_path):
    # mutation: keep the learner's weights; reuse the number; compare with the plain policy only
    train_online(job(models, tmp_path, episodes=6), Judge(BAD))
    told = progress(tmp_path)["evaluations"]
    assert [(e["version"], e["verdict"], e["against"]) for e in told] == [
        (None, "plain", None), (0, "passed", None), (1, "passed", 0), (2, "worse", 1), (4, "passed", 1),
    ]  # fmt: skip
    bad = told[3]
    assert bad["evidence"] >= 20 and len(bad["success"]) == 10
    passed = tmp_path / "passed"
    assert equal(weights(tmp_path / f"step_{bad['update'] + 1:08d}"), weights(passed / f"step_{told[2]['update']:08d}"))
    acted = versions(tmp_path)
    assert [acted[r][0] for r in (1, 2, 3)] == [0, 1, 3] and acted[3][2] == "chosen"


def test_a_trial_ends_as_soon_as_it_has_shown_enough(models, tmp_path):
    # mutation: look only at the end
    train_online(job(models, tmp_path, episodes=4, evaluate_episodes=20), Judge(BAD))
    assert [len(e["success"]) for e in progress(tmp_path)["evaluations"]] == [20, 20, 20, 10]


def test_until_a_version_has_passed_the_plain_policy_acts(models, tmp_path):
    # mutation: let the start act; never trust again
    train_online(job(models, tmp_path, episodes=8, evaluate_every=2), Judge({0: 0.0, 3: 1.0}))
    told = progress(tmp_path)["evaluations"]
    assert [(e["version"], e["verdict"], e["against"]) for e in told] == [
        (None, "plain", None), (0, "worse", None), (3, "passed", None), (5, "passed", 3),
    ]  # fmt: skip
    acted = versions(tmp_path)
    assert [acted[r][2] for r in (1, 2, 3, 4)] == ["never", "never", "chosen", "chosen"]
    assert [acted[r][0] for r in (1, 2, 3, 4)] == [1, 2, 3, 4]
    start = "sarsa " + checkpoint.verify(models[1])[:12]
    assert [acted[r][1] == start for r in (1, 2, 3)] == [True, True, False]


def test_alpha_zero_rolls_nothing_back(models, tmp_path):
    # mutation: 1 / alpha
    train_online(job(models, tmp_path, GuardRails(alpha=0), episodes=4), Judge(BAD))
    assert [e["verdict"] for e in progress(tmp_path)["evaluations"]] == ["plain", "passed", "passed", "passed"]


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def rolled_back(models, tmp_path_factory):
    """A run that was not cut off."""
    folder = tmp_path_factory.mktemp("whole")
    train_online(job(models, folder, episodes=6), Judge(BAD))
    return folder


@pytest.mark.parametrize("where", ["_settle", "_roll_back"])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_around_a_roll_back_changes_nothing(models, tmp_path, rolled_back, monkeypatch, where, after):
    # mutation: roll back before the words about it, or not again after a crash, or twice
    real = getattr(learning.Online, where)

    def crash(self, *arguments):
        rolls_back = where == "_roll_back" or len(self.progress.rounds) == 2
        if rolls_back and not after:
            raise Crash
        real(self, *arguments)
        if rolls_back:
            raise Crash

    monkeypatch.setattr(learning.Online, where, crash)
    with pytest.raises(Crash):
        train_online(job(models, tmp_path, episodes=6), Judge(BAD))
    monkeypatch.undo()
    monkeypatch.setattr(learning, "write_page", lambda *_: None)
    train_online(job(models, tmp_path, episodes=6), Judge(BAD))
    whole, cut = checkpoint.newest(rolled_back), checkpoint.newest(tmp_path)
    assert whole.name == cut.name and equal(weights(whole), weights(cut))
    keep = ("version", "verdict", "update", "success", "refused")
    for part in ("rounds", "evaluations"):
        told = [[{k: e[k] for k in keep if k in e} for e in progress(f)[part]] for f in (rolled_back, tmp_path)]
        assert told[0] == told[1]
