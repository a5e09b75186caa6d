"""LeRobot checkpoints as chunk policies: they say what LeRobot says, encoded once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from contracts import check_policy, noise
from fakes import PointMass, point_spec

pytest.importorskip("lerobot", reason='needs lerobot (extra "lerobot")')

import tiny_lerobot as tiny
from lerobot_cases import CASES, checkpoint, loaded, seen, small

from robot_value import components
from robot_value.loop import run_episodes
from robot_value.normalize import Statistics
from robot_value.policies import lerobot_processors, lerobot_repeat, lerobot_smolvla, lerobot_vla
from robot_value.policies.lerobot_noise import around, generators, keys
from robot_value.sampling import to_tensors
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.types import Steering

FLOWS = ["multi_task_dit flow", "smolvla", "pi0"]
PREFIXED = ["diffusion", "diffusion ddpm", *FLOWS]


def own_chunks(policy, folder, at, draws):
    """LeRobot's own way: the batch N times over, its processors, its predict_action_chunk; float32[B, n, H, A]."""
    from lerobot.policies.factory import make_pre_post_processors

    config, n = policy.model.config, draws.shape[1]
    before, after = make_pre_post_processors(
        config,
        pretrained_path=str(folder),
        preprocessor_overrides=lerobot_processors.overrides(
            folder, "policy_preprocessor.json", "cpu", policy.contract.backbone
        ),
    )
    history = slice(None) if config.n_obs_steps > 1 else -1
    state = torch.from_numpy(at.state)[:, history].repeat_interleave(n, 0)
    batch = {"observation.state": state[..., : tiny.STATE_DIM], "task": [t for t in at.task for _ in range(n)]}
    if config.env_state_feature:
        batch["observation.environment_state"] = state[..., tiny.STATE_DIM :]
    for name, image in at.images.items():
        picture = torch.from_numpy(image).permute(0, 1, 4, 2, 3)[:, history].repeat_interleave(n, 0)
        batch[f"observation.images.{name}"] = picture / 255
    normalised = own_sampling(policy.model, before(batch), draws)
    return after(normalised).view(draws.shape)


def own_sampling(model, batch, draws):
    """[B * n, H, A], normalised, from the noise that the candidates were given."""
    config = model.config
    if config.type in ("smolvla", "pi0", "pi05"):
        return model.predict_action_chunk(batch, noise=around(draws, 5, config.max_action_dim).flatten(0, 1))
    whole = around(draws, config.horizon, 2, config.n_obs_steps - 1).flatten(0, 1)
    if config.type == "diffusion" and config.noise_scheduler_type == "DDIM":
        return model.predict_action_chunk(batch, noise=whole)
    if config.type == "diffusion":  # predict_action_chunk hands no generator on
        condition = model.diffusion._prepare_global_conditioning(batch)
        x = model.diffusion.conditional_sample(len(whole), condition, generators(draws), whole)
        return x[:, 1:6]
    with mock.patch("torch.randn", lambda *_, **__: whole):  # it takes no noise; its queues are fed by select_action
        batch = model._prepare_batch({key: value for key, value in batch.items() if key != "action"})
        for key in ("observation.state", "observation.images"):
            model._queues[key].extend(batch[key].unbind(1))
        chunk = model.predict_action_chunk(batch)
    model.reset()
    return chunk


# -- faithful, and once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_shared_candidates_are_those_of_lerobots_own_call_on_the_batch_n_times_over(name):
    # mutations: repeat instead of repeat_interleave; unnormalise twice; a chunk that starts one step early; 1 - t as t
    policy = loaded(name)
    at, n = seen(policy), 4
    draws = noise(policy.spec, at, n)
    with torch.no_grad():
        expected = own_chunks(policy, checkpoint(name), at, draws)
    chunks, lengths = policy.sample(policy.encode(at), n, draws)
    assert expected.std() > 0.1 and expected.abs().max() < 50
    torch.testing.assert_close(chunks, expected, rtol=0, atol=1e-5)
    assert (lengths == policy.spec.horizon).all()


@pytest.mark.parametrize("name", ["diffusion ddpm", "multi_task_dit flow", "smolvla", "pi0", "pi05"])
def test_every_family_keeps_the_contract_of_a_chunk_policy(name):
    # mutations: noise of padded dims or of DDPM's steps from one generator for all; select without the state
    check_policy(loaded(name), seen(loaded(name)), n=3)


@pytest.mark.parametrize("name", ["diffusion images", "multi_task_dit", "smolvla", "pi0"])
def test_pictures_are_encoded_once_however_many_candidates_are_asked_for(name):
    # mutation: encode inside sample
    policy, calls = loaded(name), []
    vision = {"diffusion": "RgbEncoder", "multi_task_dit": "CLIPVisionEncoder", "smolvla": "VisionTransformer"}
    kind = vision.get(policy.model.config.type, "SiglipVisionModel")
    towers = [m for m in policy.model.modules() if type(m).__name__.endswith(kind)]
    hooks = [tower.register_forward_hook(lambda *_: calls.append(1)) for tower in towers]
    context = policy.encode(seen(policy))
    encoded = len(calls)
    for _ in range(2):
        policy.sample(context, 16, noise(policy.spec, seen(policy), 16))
    for hook in hooks:
        hook.remove()
    assert encoded == len(calls) == (2 if name == "smolvla" else 1), "SmolVLA sees its cameras one after another"


def test_smolvlas_prefix_is_projected_once_however_many_candidates_and_steps(monkeypatch):
    # mutations: no _answer; `projections` not given back; every layer taken for one of cross-attention
    policy, rows = loaded("smolvla"), []
    layers = policy.model.model.vlm_with_expert.lm_expert.layers
    cross = [
        layer.self_attn for layer in layers if layer.self_attn.k_proj.in_features != layer.self_attn.q_proj.in_features
    ]
    projections = [getattr(attention, name) for attention in cross for name in ("k_proj", "v_proj")]
    compute = torch.nn.Linear.forward

    def counted(self, x):
        if any(self is each for each in projections):
            rows.append(len(x))
        return compute(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    at = seen(policy)
    policy.sample(policy.encode(at), 5, noise(policy.spec, at, 5))
    assert projections and rows == [len(at.state)] * len(projections)
    assert not any("forward" in vars(module) for module in policy.model.modules())


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_smolvlas_fused_attention_is_lerobots_own(kind, monkeypatch):
    # mutations: the mask left out; key and value exchanged; no fallback; the interface not given back
    policy = loaded("smolvla")
    model, eager = policy.model.model.vlm_with_expert, []
    heads, groups, width, draw = (
        model.num_attention_heads,
        model.num_key_value_heads,
        16,
        torch.Generator().manual_seed(3),
    )
    mask = torch.rand(3, 4, 6, generator=draw) > 0.4
    mask[:, :, 0] = True
    query, key, value = (
        torch.randn(3, r, h, width, generator=draw).to(kind) for r, h in ((4, heads), (6, groups), (6, groups))
    )
    compute = model.eager_attention_forward
    expected = compute(mask, 3, width, query, key, value)
    monkeypatch.setattr(model, "eager_attention_forward", lambda *inputs: eager.append(1) or compute(*inputs))
    with lerobot_smolvla._fused_attention(model):
        got = model.get_attention_interface()(mask, 3, width, query, key, value)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert heads > groups and len(eager) == (kind != torch.float32)
    assert "get_attention_interface" not in vars(model)


@pytest.mark.parametrize("name", ["diffusion ddpm", "multi_task_dit", "smolvla"])
def test_all_randomness_is_the_candidates_own(name):
    # mutation: generator=None in denoise
    policy = loaded(name)
    at, draws, found = seen(policy), noise(policy.spec, seen(policy), 3), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(policy.sample(policy.encode(at), 3, draws)[0])
        assert torch.get_rng_state().equal(before)
    assert found[0].equal(found[1])


def test_noise_around_a_chunk_is_standard_normal_and_keeps_the_chunks_own():
    draws = torch.randn((4, 50, 5, 2), generator=torch.Generator().manual_seed(0))
    whole = around(draws, 8, 32, start=1)
    assert whole[:, :, 1:6, :2].equal(draws)
    assert len(whole[:, :, 0].flatten(0, 1).unique(dim=0)) == 200, "each its own"
    whole[:, :, 1:6, :2] = 0
    rest = whole[whole != 0]
    assert abs(float(rest.mean())) < 0.02 and abs(float(rest.std()) - 1) < 0.02
    assert len(set(keys(draws))) == 200 and torch.equal(around(draws[:, :1], 8, 32, 1)[:, 0, 0], whole[:, 0, 0])


@pytest.mark.parametrize("name", ["diffusion", "multi_task_dit", "smolvla", "pi0"])
def test_a_step_of_lerobots_training_changes_what_is_loaded_and_the_version(name, tmp_path):
    # mutation: weights that are built and not loaded
    torch.manual_seed(0)
    plain, folder = loaded(name), shutil.copytree(checkpoint(name), tmp_path / "trained")
    with small(name):
        model = lerobot_vla.load(folder).model.train()
        at, steps = seen(plain), getattr(model.config, "horizon", plain.spec.horizon)
        batch = plain._before(plain.contract.batch(to_tensors(at), plain._family.HISTORY))
        batch |= {"action": torch.randn(3, steps, tiny.ACTION_DIM), "action_is_pad": torch.zeros(3, steps).bool()}
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        model(batch)[0].backward()
        optimizer.step()
        model.save_pretrained(folder)
        trained = lerobot_vla.load(folder)
    draws = noise(plain.spec, at, 2)
    before, after = (policy.sample(policy.encode(at), 2, draws)[0] for policy in (plain, trained))
    assert (before - after).abs().max() > 1e-3 and trained.version != plain.version
    expected = trained.sample(trained.encode(at), 2, draws)[0]
    model.eval()
    trained.model.load_state_dict(model.state_dict())
    assert trained.sample(trained.encode(at), 2, draws)[0].equal(expected), "nothing is lost on disk"


# -- prefixes and guides ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREFIXED)
def test_what_follows_a_prefix_knows_of_it(name):
    # mutations: the prefix is only laid over; inpainted one step early; in spec units
    policy = loaded(name)
    at = seen(policy, 2)
    draws, context = noise(policy.spec, at, 3), policy.encode(at)
    ends = []
    for value in (-1.0, 1.0):
        prefix = torch.full((2, 2, tiny.ACTION_DIM), value)
        chunks, _ = policy.sample(context, 3, draws, prefix=prefix)
        assert torch.allclose(chunks[:, :, :2], torch.full_like(chunks[:, :, :2], value), atol=1e-5)
        ends.append(chunks[:, :, 2:])
    assert (ends[0] - ends[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", FLOWS)
def test_a_held_prefix_walks_its_own_path_inside_the_sampler(name):
    # the network's own answer for a held step does not matter: it ends at the prefix, before anything is laid over it
    policy = loaded(name)
    at = seen(policy, 2)
    prefix, draws = torch.full((2, 3, tiny.ACTION_DIM), 0.3), noise(policy.spec, at, 2)
    affine = policy.affine()
    x = policy._family.sample(policy.model, policy.encode(at), draws, affine.normalize(prefix), None)
    assert torch.allclose(affine.unnormalize(x[:, :, :3]), prefix[:, None].expand(-1, 2, -1, -1), atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_held_prefix_stays_where_it_is_whatever_a_guide_does(name):
    # mutation: integrate gives the sampler no prefix
    policy = loaded(name)
    at = seen(policy, 2)
    prefix, draws = torch.full((2, 3, tiny.ACTION_DIM), 0.3), noise(policy.spec, at, 3)
    resample, affine = torch.tensor([[0, 2, 2], [0, 1, 1]]), policy.affine()

    def sampled(pull_back):
        def guide(x_hat, t):
            return Steering(displacement=torch.ones_like(x_hat), pull_back=pull_back, resample=resample)

        with torch.no_grad():
            x = policy._family.sample(policy.model, policy.encode(at), draws, affine.normalize(prefix), guide)
        return affine.unnormalize(x)

    for x in (sampled(False), sampled(True)):
        assert torch.allclose(x[:, :, :3], prefix[:, None].expand(-1, 3, -1, -1), atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_guide_sees_chunks_in_spec_units_and_moves_them_there(name):
    # mutations: the guide sees the padded dims, or model units; its displacement is not scaled
    policy, hats = loaded(name), []
    at = seen(policy, 2)
    draws, context = noise(policy.spec, at, 3), policy.encode(at)

    def push(size):
        def guide(x_hat, t):
            hats.append(x_hat)
            return Steering(displacement=torch.full_like(x_hat, size * (t > 0.6)))  # in the last step alone

        return policy.sample(context, 3, draws, guide=guide)[0]

    plain, up, steps = push(0.0), push(0.1), len(hats) // 2
    assert torch.allclose(plain, policy.sample(context, 3, draws)[0], atol=1e-5)
    assert hats[0].shape == (2, 3, 5, 2) and torch.allclose(hats[steps - 1], plain, atol=1e-4), (
        "x_hat ends as the chunk"
    )
    assert torch.allclose(up - plain, torch.full_like(plain, 0.1 / steps), atol=1e-4)
    keep = torch.tensor([[True, False, True], [False, False, True]])
    pruned = policy.sample(context, 3, draws, guide=lambda x, t: Steering(keep=keep))[0]
    assert pruned[~keep].isnan().all() and torch.allclose(pruned[keep], plain[keep], atol=1e-5)


def test_a_diffusion_model_refuses_a_guide():
    policy = loaded("diffusion")
    with pytest.raises(ValueError, match="guide: expected none"):
        policy.sample(
            policy.encode(seen(policy)), 1, noise(policy.spec, seen(policy), 1), guide=lambda x, t: Steering()
        )


# -- in the loop ------------------------------------------------------------------------------------------------------


def test_a_lerobot_policy_is_steered_through_the_one_loop_by_a_critic_of_ours(tmp_path):
    # mutation: chunks leave normalised
    spec, both = point_spec(), {"observation.state": ("x", "y"), "observation.environment_state": ("x", "y")}
    folder = tiny.diffusion(tmp_path / "point", state=2, horizon=12, n_action_steps=8)
    lerobot_vla.adopt(folder, spec.choose(horizon=0, n_obs_steps=0), both)
    policy = lerobot_vla.load(folder)
    rng = np.random.default_rng(0)
    statistics = {name: Statistics.fit(rng.uniform(-1, 1, (50, 2)).astype(np.float32)) for name in ("state", "action")}
    critic = components.load("critics", "iql").Config().build(spec, statistics).eval()
    decisions = []
    watcher = SimpleNamespace(on_decision=lambda *given: decisions.append(given), wants_episodes=False)
    steerer = Steerer(policy, critic, argmax.Config().build(), n=6)
    run_episodes(PointMass(2, max_steps=20), steerer, watchers=[watcher], seeds=(4, 5))
    assert len(decisions) >= 2
    for at, decision, outcome in decisions:
        chunks = torch.from_numpy(decision.candidates)
        value = critic.score(critic.encode(at), chunks, torch.full((2, 6), 8)).value
        assert torch.allclose(value, torch.from_numpy(decision.value), atol=1e-4), "it scored what is executed"
        rows = np.arange(2)
        assert (decision.chunk == decision.candidates[rows, value.argmax(1)]).all()
        moved = outcome.executed[0, outcome.executed_valid[0]]
        assert np.allclose(moved, decision.chunk[0, : len(moved)], atol=1e-6)
    assert "lerobot diffusion" in decisions[0][1].versions["policy"]


# -- everybody else ---------------------------------------------------------------------------------------------------


def test_a_family_without_an_adapter_is_asked_again_for_every_candidate():
    # mutations: one seed for all candidates; the queues of the candidate before
    with mock.patch.dict(lerobot_vla.FAMILIES):
        del lerobot_vla.FAMILIES["smolvla"]
        with pytest.warns(UserWarning, match="untested with real weights"):
            policy = lerobot_vla.load(checkpoint("smolvla"))
    assert policy._family is lerobot_repeat and policy.spec == loaded("smolvla").spec
    at = seen(policy)
    check_policy(policy, seen(policy, 2), n=2)
    draws = noise(policy.spec, at, 2)
    model, context = policy.model, policy.encode(at)
    for row, key in enumerate(keys(draws)):
        torch.manual_seed(key)
        one = context.select(torch.arange(3) == row // 2)
        expected = policy._after(model.predict_action_chunk(one.batch))[0]
        assert torch.allclose(policy.sample(context, 2, draws)[0].flatten(0, 1)[row], expected, atol=1e-5)
    with pytest.raises(ValueError, match="guide: expected none"):
        policy.sample(context, 2, draws, guide=lambda x, t: Steering())


# -- the benchmark ----------------------------------------------------------------------------------------------------


def test_the_benchmark_counts_pictures_and_gives_no_verdict_that_it_cannot_give(tmp_path, monkeypatch):
    # mutations: pictures counted per call; PASS on a busy machine
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import bench_vla_best_of_n as bench

    monkeypatch.setattr("blocks.CLEAN", 1)
    row = bench.compare(bench.build(tmp_path, quick=True), 3, 0.0)
    assert row["pictures_encoded"] == {"shared": 1, "naive": 3} and row["largest_difference"] < 1e-5
    fast = row | {"n": 8, "trusted": True, "speedup": (2.9, 2.6, 3.1)}
    cases = [fast, fast | {"speedup": (2.6, 2.4, 2.8)}, fast | {"trusted": False}, fast | {"largest_difference": 0.1}]
    assert [bench.verdict([case], quick=False)["passed"] for case in cases] == [True, False, None, False]
    assert bench.verdict([fast], quick=True)["passed"] is None
