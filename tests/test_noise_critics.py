"""Critics of noise on a policy whose chunks are a known function of their seed, in a bandit whose values are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics

from robot_value.critics import arsq, cqn_as, faster, hume, iql, noise_critic
from robot_value.critics.seeds import denoise, distillation_loss, draw
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.normalize import Normalizer
from robot_value.policies import flow
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode, Features

SPEC = spec(horizon=2)
SMALL = {"hidden": (32, 32), "lr": 1e-2, "tau": 0.1}
NOISE, FASTER = noise_critic.Config(seeds=2, candidates=4, **SMALL), faster.Config(candidates=8, **SMALL)
HUME = hume.Config(candidates=2, alpha=0.1, width=16, heads=2, hidden=(32, 32), lr=1e-2, tau=0.1)
ALL = pytest.mark.parametrize("config", [NOISE, FASTER, HUME], ids=["noise_critic", "faster", "hume"])


@dataclass
class Mirror:
    """A policy whose chunk, normalized, is 1.5 tanh(-noise): a critic of chunks ranks its seeds the wrong way round."""

    spec = SPEC
    denoised: int = 0  # chunks made so far
    worth: float = 0.0  # true value of the last ones, on average

    def encoder(self, seen):
        return seen.state.flatten(1)

    def sample(self, context, n, noise):
        x = 1.5 * torch.tanh(-noise)
        self.denoised, self.worth = self.denoised + noise[..., 0, 0].numel(), float(x.mean())
        return Normalizer.of(statistics(SPEC), "action").unnormalize(x), torch.full(noise.shape[:2], 2)


def build(config):
    critic = config.build(SPEC, statistics(SPEC), TASKS).eval()
    critic.attach(Mirror())
    return critic


def bandit(seed, rows=64):
    """Random chunks; their worth, the mean of the normalized numbers, comes with the first step, which is the last."""
    batch = random_batch(SPEC, rows, seed=seed)
    worth = Normalizer.of(statistics(SPEC), "action").normalize(batch.chunks).mean((1, 2))
    first = torch.tensor([True, False]).expand(rows, -1)
    return replace(batch, rewards=worth[:, None] * first, terminated=first, valid=first, mc_return=worth)


@cache
def trained(config, updates=120):
    critic, generator = build(config), torch.Generator().manual_seed(0)
    for i in range(updates):
        critic.update(bandit(i), generator)
    return critic.eval()


def choices(critic, n=16):
    """Per row: true worth of every seed's chunk [B, n], and the one the critic of noise chooses."""
    seen = bandit(seed=999)
    seeds = draw(critic, 64, n, torch.Generator().manual_seed(1))
    worth = 1.5 * torch.tanh(-seeds).mean((2, 3))
    with torch.no_grad():
        judged = critic.score_noise(Features(critic.encoder(seen.observation)), seeds).value
    return worth, judged


def gain(critic):
    """Share of what the best of the seeds is worth beyond the average one."""
    worth, judged = choices(critic)
    chosen = worth.gather(1, judged.argmax(1, keepdim=True))[:, 0]
    return float((chosen - worth.mean(1)).mean() / (worth.amax(1) - worth.mean(1)).mean())


def agreement(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


# DSRL-NA ------------------------------------------------------------------------------------------------------------


def test_the_best_seed_by_the_distilled_critic_denoises_into_the_best_chunk():
    # mutation: distil another row's chunks; sign of the error
    critic = trained(NOISE)
    worth, judged = choices(critic)
    assert agreement(worth, judged) > 0.95 and float((worth - judged).abs().mean()) < 0.15
    assert gain(critic) > 0.9
    before = critic.policy.denoised
    seeds = draw(critic, 1, 16, torch.Generator().manual_seed(2))
    seen = bandit(7, rows=1).observation
    best = critic.score_noise(Features(critic.encoder(seen)), seeds).value.argmax(1)
    denoise(critic, seen, seeds[:, best])
    assert critic.policy.denoised - before == 1  # instead of 16


def test_without_distillation_the_seeds_are_judged_at_random(monkeypatch):
    # mutation (the defining term of DSRL-NA): Q is not carried over to the noise
    monkeypatch.setattr(noise_critic, "distill", lambda critic, batch, features, generator: torch.zeros(2, 64))
    assert abs(gain(trained(NOISE, 60))) < 0.5


def test_a_critic_of_chunks_would_choose_the_wrong_seeds():
    critic = trained(NOISE)
    worth, _ = choices(critic)
    seeds = draw(critic, 64, 16, torch.Generator().manual_seed(1))
    chunks = critic.actions.unnormalize(seeds)
    naive = critic.score(Features(critic.encoder(bandit(999).observation)), chunks).value
    assert agreement(worth, naive.detach()) < -0.5


@pytest.mark.parametrize(("candidates", "made"), [(1, 8), (4, 8)])
def test_the_backup_denoises_one_seed_per_row_the_best_by_the_critic_of_noise(candidates, made):
    # mutation: denoise all candidates; choose by the worst; evaluate with the online Q
    critic, batch = build(replace(NOISE, candidates=candidates)), random_batch(SPEC)
    for p in critic.target["q"].parameters():
        p.mul_(1.5)  # so that it is told from the online one
    got = noise_critic._following(critic, batch, torch.Generator().manual_seed(3)).mean
    assert critic.policy.denoised == made
    features = critic.encoder(batch.next[2])
    seeds = draw(critic, 8, candidates, torch.Generator().manual_seed(3))
    with torch.no_grad():
        for row in range(8):
            judged = [critic.q_noise(features[row : row + 1], z[None]).amin() for z in seeds[row]]
            best = seeds[row, int(torch.stack(judged).argmax())][None]
            value = critic.target["q"](features[row : row + 1], 1.5 * torch.tanh(-best)).amin()
            assert float(got[row]) == pytest.approx(float(value), abs=1e-5)


# FASTER -------------------------------------------------------------------------------------------------------------


def test_faster_gains_what_best_of_n_gains_and_denoises_one_seed_of_n():
    # mutation: denoise all, distil all; argmin; select with the online critic but never average it
    critic = trained(FASTER)
    assert critic.policy.denoised == 120 * 64  # instead of 8 times as many
    assert critic.policy.worth > 0.3  # those were better than the average seed, which is worth 0
    assert gain(critic) > 0.7


def test_without_the_choice_among_seeds_faster_denoises_average_ones(monkeypatch):
    # mutation (the defining term of FASTER): the first seed is taken
    monkeypatch.setattr(faster, "best_chunk", lambda q, critic, features, seeds: seeds[:, 0])
    assert abs(trained(FASTER, 60).policy.worth) < 0.15


# All ----------------------------------------------------------------------------------------------------------------


@ALL
def test_a_critic_of_noise_keeps_the_contract_of_critics(config):
    check_critic(build(config), observation(SPEC))


@ALL
def test_a_score_of_noise_depends_on_its_own_seed_and_row_alone(config):
    critic, seen = build(config), observation(SPEC)
    seeds = draw(critic, 3, 5, torch.Generator().manual_seed(0))
    context = critic.encode(seen)
    scores = critic.score_noise(context, seeds)
    assert scores.value.shape == scores.spread.shape == (3, 5) and scores.scored.all()
    assert torch.allclose(critic.score_noise(context, seeds.flip(1)).value.flip(1), scores.value, atol=1e-5)
    alone = critic.score_noise(context.select(torch.tensor([False, True, False])), seeds[1:2]).value
    assert torch.allclose(alone, scores.value[1:2], atol=1e-5)


@ALL
def test_a_chunk_the_policy_failed_to_make_teaches_nothing_and_breaks_nothing(config):
    # mutation: no mask in the distillation; no `finite` around chunks that a network sees
    class Failing(Mirror):
        def sample(self, context, n, noise):
            chunks, lengths = super().sample(context, n, noise)
            if n > 1 or config is FASTER:  # a backup that asks for a single chunk needs that one
                chunks[0, 0] = torch.nan
            return chunks, lengths

    critic = build(config)
    critic.attach(Failing())
    metrics = critic.update(random_batch(SPEC, 8), torch.Generator().manual_seed(0))
    assert all(value.isfinite() for value in metrics.values())


def test_the_distillation_is_the_mean_square_over_the_seeds_that_became_chunks():
    judged = torch.tensor([[[1.0, 5.0, 2.0]], [[0.0, 5.0, 0.0]]])  # [E, B, n]
    values = torch.tensor([[3.0, torch.nan, 2.0]])
    assert distillation_loss(judged, values).tolist() == [[(4 + 0) / 2], [(9 + 4) / 2]]
    assert distillation_loss(judged, values * torch.nan).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("config", [NOISE, FASTER], ids=["noise_critic", "faster"])
def test_a_seed_learns_the_least_averaged_value_of_its_own_chunk_at_its_own_observation(config):
    # mutation: features or seeds of other rows; the online Q teaches; the mean of its members
    critic, batch = build(config), random_batch(SPEC)
    for p in critic.target.parameters():
        p.mul_(1.5)  # so that they are told from the online ones
    got, generator = (critic.loss(batch, torch.Generator().manual_seed(0))[1], torch.Generator().manual_seed(0))
    if config is NOISE:
        draw(critic, 8, NOISE.candidates, generator)  # of the backup
    every = draw(critic, 8, NOISE.seeds if config is NOISE else FASTER.candidates, generator)
    features, losses = critic.encoder(batch.observation), []
    with torch.no_grad():
        for row, seeds in enumerate(every):
            seen = features[row].expand(len(seeds), -1)
            if config is FASTER:
                chosen = critic.target["q_noise"](seen, seeds).amin(0).argmax()
                seen, seeds = seen[:1], seeds[chosen][None]
            known = critic.target["q"](seen, 1.5 * torch.tanh(-seeds)).amin(0)
            losses.append((critic.q_noise(seen, seeds) - known).square().mean())
    assert float(got["noise_loss"]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_each_network_of_a_noise_critic_only_feels_its_own_loss():
    # mutation: features not detached in distill; target not detached
    for config in (NOISE, FASTER):
        critic, batch = build(config), random_batch(SPEC)
        noise_loss = (noise_critic if config is NOISE else faster).distill(
            critic, batch, critic.encoder(batch.observation).requires_grad_(), torch.Generator().manual_seed(0)
        )
        noise_loss.sum().backward()
        assert all(p.grad is not None for p in critic.q_noise.parameters())
        assert all(p.grad is None for p in critic.q.parameters())


def test_critics_of_chunks_refuse_noise_and_critics_of_seeds_refuse_half_finished_chunks():
    critic, seen = build(NOISE), observation(SPEC)
    seeds = draw(critic, 3, 1, None)
    with pytest.raises(ValueError, match="expected seeds"):
        critic.score_noise(critic.encode(seen), seeds, torch.full((3, 1), 0.5))
    chunks = iql.Config(members=1, hidden=(8,)).build(SPEC, statistics(SPEC))
    with pytest.raises(ValueError, match="expected a critic of noise"):
        chunks.score_noise(chunks.encode(seen), seeds)


# From a store to a checkpoint ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(folder of episodes, folder of a flow policy cloned from them)"""
    folder, s, rng = tmp_path_factory.mktemp("toy"), spec(horizon=4, state=2), np.random.default_rng(0)
    with EpisodeStore.create(folder / "data", s) as data:
        for i in range(4):
            actions = rng.uniform(s.low, s.high, (9, 2)).astype(np.float32)
            states, rewards = rng.standard_normal((10, 2)).astype(np.float32), np.zeros(9, np.float32)
            rewards[-1] = i % 2
            data.append(Episode(s, states, {}, actions, rewards, i % 2 == 1, i % 2 == 0, i % 2 == 1))
    clone = Job(str(folder / "data"), flow.Config(width=16, depth=1, sample_steps=2), quiet(folder / "clone"))
    return folder / "data", fit(replace(clone, windowing=Windowing(horizon=4)))


def quiet(folder):
    return TrainConfig(str(folder), 3, 16, validate_every=3, progress=False, tensorboard=False)


@pytest.mark.parametrize(
    "config",
    [
        replace(NOISE, scope=2),
        replace(FASTER, scope=2),
        replace(HUME, scope=2),
        cqn_as.Config(levels=2, bins=3, atoms=11, hidden=(16, 16)),
        arsq.Config(levels=2, bins=3, hidden=(16, 16)),
    ],
    ids=["noise_critic", "faster", "hume", "cqn_as", "arsq"],
)
def test_every_page_trains_from_a_store_and_is_loaded_as_it_was_saved(config, store, tmp_path):
    data, clone = store
    job = Job(str(data), config, quiet(tmp_path / "run"), Windowing(horizon=4), base=str(clone))
    model, s = load_model(fit(job)), spec(horizon=4, state=2)
    assert model.config == config and int(model.step) == 3
    check_critic(model, observation(s))
