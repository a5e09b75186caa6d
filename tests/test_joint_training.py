"""A critic and a policy in one run: who asks whom, what is saved, how it goes on, and the pages made for it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics

from robot_value import checkpoint, cli
from robot_value.critics import aloe, expo, iql, noise_critic, qc, qc_fql, rlpd, ro2o
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit, make_learner
from robot_value.learners import CriticLearner, Joint, JointLearner, Optimization, PolicyLearner
from robot_value.mixing import MixedSampler
from robot_value.policies import advantage_weighted, edit, flow, importance_weighted, mild, noise, one_step
from robot_value.sampling import ChunkSampler, TensorObservation
from robot_value.training import Interrupted, TrainConfig, load_model, train_offline
from robot_value.types import Episode, Features

SPEC = spec(horizon=4, state=2)
FLOW = flow.Config(width=16, depth=2, sample_steps=2)
SMALL = {"hidden": (16,), "members": 2}
QC = qc.Config(candidates=3, **SMALL)
PAIRS = {
    "qc": (QC, FLOW),
    "qc_fql": (qc_fql.Config(**SMALL), one_step.Config(FLOW, width=16, depth=1)),
    "mcep": (qc_fql.Config(**SMALL), mild.Config(FLOW, width=16, depth=1)),
    "aloe": (aloe.Config(**SMALL), advantage_weighted.Config(FLOW, samples=2)),
    "expo": (expo.Config(candidates=4, **SMALL), edit.Config(FLOW, hidden=(16,))),
    "dsrl": (noise_critic.Config(candidates=1, seeds=2, **SMALL), noise.Config(FLOW, hidden=(16,))),
    "independent": (iql.Config(**SMALL), FLOW),
}
QUIET = TrainConfig(
    batch_size=16, steps=12, log_every=5, validate_every=6, save_every=6, progress=False, tensorboard=False
)


def record(path, episodes: int, seed: int = 0, mark: float = 0.0) -> None:
    """Episodes of 8 steps; the second half of them succeeds. `mark` is the first state number of every frame."""
    rng = np.random.default_rng(seed)
    store = EpisodeStore.open(path, mode="a") if path.exists() else EpisodeStore.create(path, SPEC)
    for i in range(episodes):
        actions = rng.uniform(SPEC.low, SPEC.high, (8, 2)).astype(np.float32)
        rewards = np.zeros(8, np.float32)
        rewards[-1] = good = i % 2 == 1
        states = rng.standard_normal((9, 2)).astype(np.float32)
        states[:, 0] += mark
        store.append(Episode(SPEC, states, {}, actions, rewards, good, not good, good, TASKS[i % 2]))
    store.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "store"
    record(path, 12)
    return path


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """The run of a trained flow."""
    folder = tmp_path_factory.mktemp("base")
    fit(Job(str(data), FLOW, replace(QUIET, folder=str(folder), steps=4), Windowing(horizon=4)))
    return folder


def job(data, pair: str, folder, **changes) -> Job:
    critic, policy = PAIRS[pair]
    plain = Job(str(data), critic, replace(QUIET, folder=str(folder)), Windowing(horizon=4), policy=policy)
    return replace(plain, **changes)


def joint(pair: str, **settings) -> JointLearner:
    critic, policy = (config.build(SPEC, statistics(SPEC), TASKS) for config in PAIRS[pair])
    return JointLearner(CriticLearner(critic), PolicyLearner(policy, 100), Joint(**settings))


def weights(folder) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.newest(folder)).tensors


# Runs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_a_run_of_both_leaves_a_policy_and_a_critic_that_can_be_deployed(data, tmp_path, pair):
    assert fit(job(data, pair, tmp_path)) == tmp_path
    policy, critic = (load_model(tmp_path / name) for name in ("policy", "critic"))
    assert (policy.config, critic.config) == PAIRS[pair][::-1]
    seen = observation(SPEC, 3)
    chunks, lengths = policy.sample(policy.encode(seen), 4, torch.randn(3, 4, 4, 2))
    assert critic.score(critic.encode(seen), chunks, lengths).value.isfinite().all()
    assert critic.step == 12


def test_a_run_of_both_does_not_say_which_model_it_is(data, tmp_path):
    fit(job(data, "qc", tmp_path))
    with pytest.raises(ValueError, match=r"expected one model, got a run of policy and critic; say .*policy"):
        load_model(tmp_path)


class StopAfter:
    """A sampler during whose n-th batch somebody presses Ctrl-C."""

    def __init__(self, sampler, n: int):
        self.sampler, self.left = sampler, n

    def sample(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.sampler.sample()

    def __getattr__(self, name):
        return getattr(self.sampler, name)


@pytest.mark.parametrize("pair", ["qc_fql", "expo"])
def test_a_stopped_run_of_both_goes_on_as_if_nothing_had_happened(data, tmp_path, pair, monkeypatch):
    # mutation: save the policy's optimizer with the critic; do not restore the generator
    straight, stopped = (replace(job(data, pair, tmp_path / name), joint=Joint(2)) for name in ("straight", "stopped"))
    fit(straight)
    original = train_offline
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(
            "robot_value.fit.train_offline",
            lambda learner, sampler, *rest: original(learner, StopAfter(sampler, 7), *rest),
        )
        fit(stopped)
    assert checkpoint.newest(tmp_path / "stopped" / "policy").name == "step_00000007"
    torch.manual_seed(99)
    fit(stopped)
    for part in ("policy", "critic"):
        a, b = (weights(tmp_path / run / part) for run in ("straight", "stopped"))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    curves = [(tmp_path / run / "curves.json").read_text() for run in ("straight", "stopped")]
    assert '"critic_q_loss"' in curves[0] and '"policy_loss"' in curves[0]


def test_a_run_killed_between_its_two_saves_goes_on_from_the_step_that_both_have(data, tmp_path, monkeypatch):
    # mutation: resume every part from its own newest step
    fit(job(data, "qc_fql", tmp_path / "straight"))
    save, calls = checkpoint.save, []

    def dies(folder, **rest):
        calls.append(folder)
        if len(calls) == 4:  # the critic of the second save
            raise KeyboardInterrupt
        return save(folder, **rest)

    killed = job(data, "qc_fql", tmp_path / "killed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", dies)
        fit(killed)
    newest = {part: checkpoint.newest(tmp_path / "killed" / part).name for part in ("policy", "critic")}
    assert newest == {"policy": "step_00000012", "critic": "step_00000006"}
    fit(killed)
    for part in ("policy", "critic"):
        a, b = (weights(tmp_path / run / part) for run in ("straight", "killed"))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_is_not_continued_with_other_settings_of_either_model(data, tmp_path):
    plain = job(data, "qc_fql", tmp_path)
    fit(plain)
    for change, message in (
        ({"policy": replace(plain.policy, alpha=1.0)}, "made with alpha=100.0, got alpha=1.0"),
        ({"config": replace(plain.config, tau=0.1)}, "made with tau=0.005, got tau=0.1"),
        ({"joint": Joint(2)}, "made with critic_updates=1, got critic_updates=2"),
        ({"optimization": Optimization(lr=0.1)}, "made with lr=0.0003, got lr=0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(replace(plain, **change))


# What stands on a trained policy or critic --------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["qc_fql", "mcep", "expo", "dsrl"])
def test_a_base_comes_with_its_weights_and_stays_as_it_is(data, base, tmp_path, pair):
    # mutation: do not freeze; build with the flags' flow instead of the checkpoint's
    asked = job(data, pair, tmp_path, base=str(base))
    fit(replace(asked, policy=replace(asked.policy, base=flow.Config(width=999))))
    flowed, saved = load_model(base).state_dict(), load_model(tmp_path / "policy")
    assert saved.config.base == FLOW
    assert all(torch.equal(saved.base.state_dict()[key], value) for key, value in flowed.items())


@pytest.mark.parametrize(
    "config", [advantage_weighted.Config(FLOW, samples=2), importance_weighted.Config(FLOW)], ids=str
)
def test_weighted_cloning_starts_from_its_base_and_asks_a_trained_critic(data, base, tmp_path, config):
    critic = fit(job(data, "independent", tmp_path / "critic", policy=None))
    plain = Job(
        str(data), config, replace(QUIET, folder=str(tmp_path / "policy")), Windowing(horizon=4), base=str(base)
    )
    judged = replace(plain, trained_critic=str(critic))
    learner = make_learner(judged, SPEC, statistics(SPEC), TASKS, torch.device("cpu"))
    flowed = load_model(base).state_dict()
    assert all(torch.equal(learner.model.base.state_dict()[key], value) for key, value in flowed.items())
    fit(judged)
    moved = load_model(tmp_path / "policy").base.state_dict()
    assert not torch.equal(moved["head.output.weight"], flowed["head.output.weight"])


def test_an_actor_on_a_base_speaks_the_units_that_the_base_learned_in(data, base, tmp_path):
    # mutation: build the actor with the new data's statistics
    elsewhere = tmp_path / "elsewhere"
    record(elsewhere, 6, mark=100.0)
    fit(
        Job(
            str(elsewhere),
            one_step.Config(),
            replace(QUIET, folder=str(tmp_path / "run"), steps=2),
            Windowing(horizon=4),
            base=str(base),
            trained_critic=str(fit(job(data, "independent", tmp_path / "critic", policy=None))),
        )
    )
    saved = load_model(tmp_path / "run")
    assert saved.statistics["state"].to_json() == load_model(base).statistics["state"].to_json()


def test_a_critic_alone_may_ask_a_trained_policy(data, base, tmp_path):
    folder = fit(job(data, "qc", tmp_path, policy=None, base=str(base)))
    assert load_model(folder).step == 12 and not (tmp_path / "policy").exists()


def test_a_policy_refuses_a_base_that_it_cannot_stand_on(data, base, tmp_path):
    # mutation: build on whatever the base is (its checkpoint could not be read again)
    with pytest.raises(
        ValueError, match=r"base: expected a policy that stands on a flow one, got flow; train a critic"
    ):
        fit(job(data, "qc", tmp_path / "a", base=str(base)))
    fit(job(data, "qc_fql", tmp_path / "actor"))
    with pytest.raises(ValueError, match=r"base: expected a policy that stands on a one_step one, got edit"):
        fit(job(data, "expo", tmp_path / "b", base=f"{tmp_path}/actor/policy"))


def test_a_policy_that_asks_no_critic_refuses_one(data, tmp_path):
    asked = Job(str(data), FLOW, replace(QUIET, folder=str(tmp_path / "flow")), Windowing(horizon=4))
    critic = fit(job(data, "independent", tmp_path / "critic", policy=None))
    with pytest.raises(ValueError, match="expected a policy whose loss asks a critic, got FlowPolicy; drop the flag"):
        fit(replace(asked, trained_critic=str(critic)))


# One update ---------------------------------------------------------------------------------------------------------


def test_several_critic_updates_share_the_batch_and_the_policy_is_updated_once(monkeypatch):
    # mutation: contiguous shares (a mixture of sources would come apart); a policy update per share
    learner, rows = joint("qc", critic_updates=4), []
    for part in (learner.critic, learner.policy):
        update = part.update
        monkeypatch.setattr(part, "update", lambda b, g, u=update: rows.append(b.index.tolist()) or u(b, g))
    metrics = learner.update(random_batch(SPEC, 12), torch.Generator().manual_seed(0))
    assert rows == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11], [3, 7, 11]]
    assert learner.critic.model.step == 4 and learner.policy.step == 1
    assert torch.isclose(metrics["loss"], metrics["critic_loss"] + metrics["policy_loss"])
    with pytest.raises(ValueError, match="critic_updates: expected at least 1, got 0"):
        joint("qc", critic_updates=0)


def test_every_critic_update_has_a_batch_of_the_size_asked_for(data, tmp_path, monkeypatch):
    # mutation: share out a single batch
    monkeypatch.setattr("robot_value.fit.train_offline", lambda learner, sampler, *rest: sampler.batch_size)
    assert fit(job(data, "qc", tmp_path, joint=Joint(3))) == 3 * QUIET.batch_size
    assert fit(job(data, "qc", tmp_path, policy=None, joint=Joint(3))) == QUIET.batch_size


def test_the_backup_samples_the_weights_and_the_average_is_deployed():
    # mutation: attach the EMA
    learner = joint("qc_fql")
    assert learner.critic.model.policy is learner.policy.model is not learner.policy.deployed
    assert learner.policy.model.critic is learner.critic.model


def test_the_backup_of_a_mild_actor_asks_the_strict_one():
    # mutation: attach the policy itself
    learner = joint("mcep")
    actor, context = learner.policy.model, Features(torch.zeros(2, 2))
    draws = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    proposed = learner.critic.model.policy.sample(context, 3, draws)[0]
    assert proposed.equal(mild.act_strictly(actor, context, draws, None, None))
    assert not proposed.allclose(actor.sample(context, 3, draws)[0])


def test_validation_shows_both_and_changes_neither():
    learner = joint("expo")
    before = [p.clone() for part in learner.parts.values() for p in part.model.parameters()]
    metrics = learner.validate(random_batch(SPEC), torch.Generator().manual_seed(0))
    assert {"loss", "critic_q_loss", "policy_action_error"} <= metrics.keys()
    after = [p for part in learner.parts.values() for p in part.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# The command --------------------------------------------------------------------------------------------------------


def test_the_command_trains_both_and_then_an_actor_on_the_result(data, tmp_path, capsys):
    quiet = [
        "--training.steps=2",
        "--training.batch_size=8",
        "--training.progress=false",
        "--training.tensorboard=false",
    ]
    quiet += ["--windowing.horizon=4", f"--data={data}"]
    small = ["--critic.hidden=[8]", "--policy.width=8"]
    both = ["--critic.type=qc", "--critic.candidates=2", "--policy.type=flow", f"--training.folder={tmp_path}/qc"]
    assert cli.main(["train", *both, *small, *quiet]) == 0
    assert capsys.readouterr().out.strip() == f"{tmp_path}/qc"
    over = ["--critic.type=expo", "--critic.candidates=2", "--policy.type=edit", f"--base={tmp_path}/qc/policy"]
    over += ["--critic.hidden=[8]", "--policy.hidden=[8]", "--joint.critic_updates=2"]
    assert cli.main(["train", *over, f"--training.folder={tmp_path}/expo", *quiet]) == 0
    assert load_model(tmp_path / "expo" / "policy").config.base.width == 8
    assert load_model(tmp_path / "expo" / "critic").step == 4


# Pages --------------------------------------------------------------------------------------------------------------

K, GAMMA = 2, 0.5
LOOP = spec(horizon=K, state=1)
LOW, HIGH = torch.from_numpy(LOOP.low), torch.from_numpy(LOOP.high)


class Coin:
    """A policy that proposes the chunk at the upper or at the lower limits, whatever it sees, as its noise says."""

    spec = LOOP

    def encoder(self, seen):
        return seen.state.flatten(1)

    def sample(self, context, n, draws):
        up = draws[:, :, :1, :1] > 0
        return torch.where(up, HIGH, LOW).expand(-1, -1, K, -1).contiguous(), None


def loop_batch(chunks):
    """One state that never ends; the chunk at the upper limits is paid 1, the other nothing."""
    rows = len(chunks)
    state = TensorObservation(torch.ones(rows, 1, 1), {}, torch.zeros(rows, dtype=torch.int64), ("",))
    rewards = torch.zeros(rows, K)
    rewards[:, 0] = (chunks[:, 0, 0] > LOW[0]).float()
    return replace(random_batch(LOOP, rows), observation=state, next={K: state}, chunks=chunks, rewards=rewards)


def learned(config, steps: int = 220):
    """Values of the upper and the lower chunk after training on both."""
    critic = replace(config, gamma=GAMMA, lr=5e-3, tau=0.1).build(LOOP, statistics(LOOP))
    critic.attach(Coin())
    chunks = torch.stack([HIGH, LOW]).repeat(16, 1)[:, None].expand(-1, K, -1).contiguous()
    batch, generator = loop_batch(chunks), torch.Generator().manual_seed(0)
    for _ in range(steps):
        critic.update(batch, generator)
    scores = critic.score(Features(critic.encoder(batch.observation)), chunks[:, None])
    return scores.value[:2, 0].tolist()


# V = mean or max of {1 + g^2 V, g^2 V}
POLICYS = 0.5 / (1 - GAMMA**K)
BEST = 1 / (1 - GAMMA**K)
SMALL_LOOP = {"hidden": (32,), "members": 4}


@pytest.mark.parametrize("config", [qc_fql.Config(**SMALL_LOOP), aloe.Config(**SMALL_LOOP)], ids=["qc_fql", "aloe"])
def test_the_backup_values_the_policy_that_is_trained(config):
    expected = [1 + GAMMA**K * POLICYS, GAMMA**K * POLICYS]
    assert learned(config) == pytest.approx(expected, abs=0.1)


def test_with_the_best_of_many_in_place_of_the_policys_sample_it_is_q_chunking():
    # the defining term of qc_fql, the policy's own sample, removed: the value is the best policy's
    expected = [1 + GAMMA**K * BEST, GAMMA**K * BEST]
    assert learned(qc.Config(candidates=8, **SMALL_LOOP)) == pytest.approx(expected, abs=0.1)


def test_expo_values_the_policy_that_chooses_and_with_one_candidate_the_one_that_does_not():
    # the defining term of expo, the choice among candidates, kept and removed
    assert learned(expo.Config(candidates=8, **SMALL_LOOP))[0] == pytest.approx(1 + GAMMA**K * BEST, abs=0.1)
    assert learned(expo.Config(candidates=1, **SMALL_LOOP))[0] == pytest.approx(1 + GAMMA**K * POLICYS, abs=0.1)


def test_expo_chooses_by_its_averaged_members():
    # mutation: choose by the online critics
    critic = expo.Config(**SMALL_LOOP).build(LOOP, statistics(LOOP)).eval()
    with torch.no_grad():
        for parameter in critic.q.parameters():
            parameter.zero_()
    features, proposed = torch.randn(6, 1), torch.randn(6, 9, K, 2)
    chosen = expo.choose(critic, features, proposed, torch.Generator().manual_seed(0))
    pair = torch.randperm(4, generator=torch.Generator().manual_seed(0))[:2]
    for row in range(6):
        values = critic.target["q"](features[row].expand(9, 1), proposed[row])[pair].amin(0)
        assert chosen[row].equal(proposed[row, values.argmax()])


def test_aloe_takes_the_least_member_where_the_data_says_nothing():
    # the defining term, min over members, kept and removed
    batch, targets = loop_batch(HIGH.expand(8, K, 2)), {}
    plain = aloe.Config(**SMALL_LOOP)
    for how, config in (("min", plain), ("mean", replace(plain, aggregate="mean"))):
        critic = config.build(LOOP, statistics(LOOP))
        critic.attach(Coin())
        _, metrics = critic.loss(batch, torch.Generator().manual_seed(0))
        targets[how] = metrics["target"].item()
        chunks = Coin().sample(None, 1, torch.randn(8, 1, K, 2, generator=torch.Generator().manual_seed(0)))[0]
        members = critic.target["q"](critic.encoder(batch.next[K]), critic.actions.normalize(chunks[:, 0]))
        judged = members.amin(0) if how == "min" else members.mean(0)
        assert targets[how] == pytest.approx((1 + GAMMA_OF_ALOE * judged).mean().item(), abs=1e-5)
    assert targets["min"] < targets["mean"]


GAMMA_OF_ALOE = aloe.Config().gamma ** K


@pytest.mark.parametrize("config", [qc_fql.Config(**SMALL), aloe.Config(**SMALL), expo.Config(**SMALL)], ids=str)
@pytest.mark.parametrize("scope", [0, 1])
def test_the_pages_keep_the_contract(config, scope):
    s = spec()
    check_critic(replace(config, scope=scope).build(s, statistics(s), TASKS).eval(), observation(s))


# Online: half recorded, half own, many updates per step -------------------------------------------------------------


ONLINE = {
    "rlpd": (rlpd.Config(hidden=(16,), members=4), one_step.Config(FLOW, width=16, depth=1)),
    "expo": (expo.Config(hidden=(16,), members=4, candidates=4), edit.Config(FLOW, hidden=(16,))),
    "ro2o": (ro2o.Config(hidden=(16,), members=4, copies=2), one_step.Config(FLOW, width=16, depth=1)),
}


@pytest.mark.parametrize("name", ONLINE)
def test_an_online_algorithm_learns_from_both_halves_of_a_growing_store(data, tmp_path, name):
    # mutation: updates with the recorded half only; the new episodes are not seen
    critic, policy = (config.build(SPEC, statistics(SPEC), TASKS) for config in ONLINE[name])
    learner = JointLearner(CriticLearner(critic), PolicyLearner(policy, 100), Joint(critic_updates=5))
    generator, own = torch.Generator().manual_seed(0), tmp_path / "own"
    prior = ChunkSampler(open_cache(EpisodeStore.open(data), progress=False), 4, offsets=(4,), batch_size=40)
    for round_ in range(2):
        record(own, 2, seed=round_, mark=100.0)
        fresh = ChunkSampler(open_cache(EpisodeStore.open(own), progress=False), 4, offsets=(4,), batch_size=16)
        assert len(fresh) == 16 * (round_ + 1)
        sampler = MixedSampler([(prior, 0.5), (fresh, 0.5)])
        for _ in range(2):
            batch = sampler.sample()
            assert ((batch.observation.state[:, 0, 0] > 50).sum(), len(batch.chunks)) == (20, 40)
            metrics = learner.update(batch, generator)
            assert all(value.isfinite().all() for value in metrics.values())
    assert critic.step == 20 and learner.policy.step == 4
