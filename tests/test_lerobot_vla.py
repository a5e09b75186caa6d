"""LeRobot checkpoints as chunk policies: they say what LeRobot says, encoded once, and nothing is half loaded."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from contracts import check_policy, noise
from fakes import PointMass, observation, point_spec
from safetensors.torch import load_file, save_file

pytest.importorskip("lerobot", reason='needs lerobot (extra "lerobot")')

import tiny_lerobot as tiny

from robot_value import components
from robot_value.checkpoint import CheckpointError
from robot_value.loop import run_episodes
from robot_value.normalize import Statistics
from robot_value.policies import lerobot_files, lerobot_processors, lerobot_repeat, lerobot_vla
from robot_value.policies.lerobot_noise import around, generators, keys
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.types import Steering

TASKS = (*tiny.SENTENCES, "lift")  # of unlike lengths: the shorter prompts are padded
BY_HAND = {"observation.state": tiny.spec().state_names, "observation.environment_state": ("cube_0", "cube_1")}
TOP = tiny.spec(("top",))
# name -> (builder, spec, inputs, backbone); built when first asked for
CASES = {
    "diffusion": (tiny.diffusion, tiny.spec(environment=2), BY_HAND, ""),
    "diffusion ddpm": (lambda f: tiny.diffusion(f, noise_scheduler_type="DDPM"), tiny.spec(environment=2), BY_HAND, ""),
    "diffusion images": (lambda f: tiny.diffusion(f, ("top", "wrist")), tiny.spec(("top", "wrist")), {}, ""),
    "multi_task_dit": (tiny.multi_task_dit, TOP, {}, "tiny_clip"),
    "multi_task_dit flow": (lambda f: tiny.multi_task_dit(f, objective="flow_matching"), TOP, {}, "tiny_clip"),
    "multi_task_dit rk4": (
        lambda f: tiny.multi_task_dit(f, objective="flow_matching", integration_method="rk4"),
        TOP,
        {},
        "tiny_clip",
    ),
    "smolvla": (lambda f: tiny.smolvla(f, ("top", "wrist")), tiny.spec(("top", "wrist")), {}, "vlm"),
    "pi0": (tiny.pi, TOP, {}, "tokenizer"),
    "pi05": (lambda f: tiny.pi(f, "pi05"), TOP, {}, "tokenizer"),
}
FLOWS = ["multi_task_dit flow", "smolvla", "pi0"]
PREFIXED = ["diffusion", "diffusion ddpm", *FLOWS]


def small(name):
    """pi0's sizes are in LeRobot's code."""
    return tiny.small_pi(f"modeling_{name}") if name.startswith("pi") else contextlib.nullcontext()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """name -> its folder, adopted."""

    @cache
    def made(name):
        build, spec, inputs, backbone = CASES[name]
        with small(name):
            folder = build(tmp_path_factory.mktemp("lerobot") / name.replace(" ", "_"))
            lerobot_vla.adopt(folder, spec, inputs, backbone)
        return folder

    return made


@pytest.fixture(scope="module")
def loaded(checkpoint):
    """name -> the policy; tests that change it restore it."""

    @cache
    def made(name):
        with small(name):
            return lerobot_vla.load(checkpoint(name))

    return made


def seen(policy, batch=3):
    return observation(policy.spec, batch, task=TASKS[:batch])


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
def test_shared_candidates_are_those_of_lerobots_own_call_on_the_batch_n_times_over(name, loaded, checkpoint):
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
def test_every_family_keeps_the_contract_of_a_chunk_policy(name, loaded):
    # mutations: noise of padded dims or of DDPM's steps from one generator for all; select without the state
    check_policy(loaded(name), seen(loaded(name)), n=3)


@pytest.mark.parametrize("name", ["diffusion images", "multi_task_dit", "smolvla", "pi0"])
def test_pictures_are_encoded_once_however_many_candidates_are_asked_for(name, loaded):
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


@pytest.mark.parametrize("name", ["diffusion ddpm", "multi_task_dit", "smolvla"])
def test_all_randomness_is_the_candidates_own(name, loaded):
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


def test_what_was_saved_is_what_is_loaded_also_from_another_folder_and_as_a_run(checkpoint, loaded, tmp_path):
    # mutation: the backbone of robot_value.json is not taken from the checkpoint's folder
    moved = shutil.copytree(checkpoint("smolvla"), tmp_path / "run" / "checkpoints" / "000020" / "pretrained_model")
    (tmp_path / "run" / "checkpoints" / "last").symlink_to("000020")
    config = json.loads((moved / "config.json").read_text())
    config["vlm_model_name"] = "somebody/elsewhere"
    (moved / "config.json").write_text(json.dumps(config))
    plain, other = loaded("smolvla"), lerobot_vla.load(tmp_path / "run")
    draws = noise(plain.spec, seen(plain), 2)
    assert other.sample(other.encode(seen(plain)), 2, draws)[0].equal(
        plain.sample(plain.encode(seen(plain)), 2, draws)[0]
    )
    assert plain.version.startswith("lerobot smolvla ") and plain.version != other.version


@pytest.mark.parametrize("name", ["diffusion", "multi_task_dit", "smolvla", "pi0"])
def test_a_step_of_lerobots_training_changes_what_is_loaded_and_the_version(name, checkpoint, loaded, tmp_path):
    # mutation: weights that are built and not loaded
    torch.manual_seed(0)
    plain, folder = loaded(name), shutil.copytree(checkpoint(name), tmp_path / "trained")
    with small(name):
        model = lerobot_vla.load(folder).model.train()
        at, steps = seen(plain), getattr(model.config, "horizon", plain.spec.horizon)
        batch = plain._before(plain.contract.batch(at, plain._family.HISTORY, torch.device("cpu")))
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
def test_what_follows_a_prefix_knows_of_it(name, loaded):
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
def test_a_held_prefix_walks_its_own_path_inside_the_sampler(name, loaded):
    # the network's own answer for a held step does not matter: it ends at the prefix, before anything is laid over it
    policy = loaded(name)
    at = seen(policy, 2)
    prefix, draws = torch.full((2, 3, tiny.ACTION_DIM), 0.3), noise(policy.spec, at, 2)
    affine = policy.affine()
    x = policy._family.sample(policy.model, policy.encode(at), draws, affine.normalize(prefix), None)
    assert torch.allclose(affine.unnormalize(x[:, :, :3]), prefix[:, None].expand(-1, 2, -1, -1), atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_guide_sees_chunks_in_spec_units_and_moves_them_there(name, loaded):
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


def test_a_diffusion_model_refuses_a_guide(loaded):
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


# -- names and units --------------------------------------------------------------------------------------------------


def test_state_and_cameras_may_have_other_names_and_another_order_in_the_robot(checkpoint, loaded, tmp_path):
    # mutation: names are taken in the spec's order
    folder = shutil.copytree(checkpoint("smolvla"), tmp_path / "named")
    spec = tiny.spec(("left", "front"))
    inputs = {"observation.state": ("joint_2", "joint_0", "joint_1"), "observation.images.top": ("front",)}
    lerobot_vla.adopt(folder, spec, inputs | {"observation.images.wrist": ("left",)}, "vlm")
    policy, plain = lerobot_vla.load(folder), loaded("smolvla")
    at = observation(policy.spec, 2, task=TASKS[:2])
    images = {"top": at.images["front"], "wrist": at.images["left"]}
    same = observation(plain.spec, 2, task=TASKS[:2], state=at.state[..., [2, 0, 1]], images=images)
    draws = noise(policy.spec, at, 2)
    assert policy.sample(policy.encode(at), 2, draws)[0].equal(plain.sample(plain.encode(same), 2, draws)[0])


def test_a_camera_that_the_robot_lacks_is_left_blank_where_the_model_can_do_without_it(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("smolvla"), tmp_path / "blank")
    lerobot_vla.adopt(folder, TOP, {"observation.images.wrist": ()}, "vlm")
    policy = lerobot_vla.load(folder)
    assert policy.sample(policy.encode(seen(policy)), 1, noise(policy.spec, seen(policy), 1))[0].isfinite().all()


WRONG = {
    "no camera of that name": (
        tiny.spec(("front", "wrist")),
        {},
        r"observation.images.top: .*\(front, wrist\), got top",
    ),
    "no such feature": (
        tiny.spec(("top", "wrist")),
        {"observation.image": ("top",)},
        "has no observation.image, it has",
    ),
    "no such state": (
        tiny.spec(("top", "wrist")),
        {"observation.state": ("joint_0", "joint_1", "elbow")},
        "has no elbow, it has joint_0",
    ),
    "too many states": (tiny.spec(("top", "wrist"), environment=1), {}, r"wants \[3\] numbers, got 4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mapping_that_does_not_fit_names_both_sides_and_leaves_the_old_one(case, checkpoint):
    # mutation: write before the policy is built
    spec, inputs, message = WRONG[case]
    folder = checkpoint("smolvla")
    before = (folder / "robot_value.json").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        lerobot_vla.adopt(folder, spec, inputs, "vlm")
    assert (folder / "robot_value.json").read_bytes() == before


def test_pictures_of_another_size_and_actions_in_another_unit_are_refused(checkpoint):
    from dataclasses import replace

    folder, spec = checkpoint("diffusion images"), tiny.spec(("top", "wrist"))
    small_camera = replace(spec, cameras=(replace(spec.cameras[0], height=48), spec.cameras[1]))
    with pytest.raises(CheckpointError, match=r"trained on \[3, 64, 64\], the robot's camera top gives \[3, 48, 64\]"):
        lerobot_vla.adopt(folder, small_camera, {})
    narrow = replace(spec, parts=(replace(spec.parts[0], low=(-0.02, -0.02), high=(0.02, 0.02)),))
    with pytest.raises(CheckpointError, match=r"action dim 0: .* are the units the same"):
        lerobot_vla.adopt(folder, narrow, {})
    with pytest.raises(CheckpointError, match="2 action dims, the spec 8"):
        wide = replace(spec.parts[0], stop=8, low=(-1.0,) * 8, high=(1.0,) * 8)
        lerobot_vla.adopt(folder, replace(spec, parts=(wide,)), {})


def test_without_a_contract_the_error_says_how_to_write_one(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("diffusion"), tmp_path / "plain")
    (folder / "robot_value.json").unlink()
    assert lerobot_vla.is_checkpoint(folder) and not lerobot_vla.is_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="robot-value adopt"):
        lerobot_vla.load(folder)
    with pytest.raises(CheckpointError, match=r"observation.state: the checkpoint wants \[3\] numbers, got 5"):
        lerobot_vla.load(folder, spec=tiny.spec(environment=2))
    pictured = shutil.copytree(checkpoint("smolvla"), tmp_path / "pictured")
    spec = lerobot_vla.load(pictured).spec
    (pictured / "robot_value.json").unlink()
    config = json.loads((pictured / "config.json").read_text()) | {"vlm_model_name": str(pictured / "vlm")}
    (pictured / "config.json").write_text(json.dumps(config))
    assert lerobot_vla.load(pictured, spec=spec.choose(horizon=2, n_obs_steps=0)).spec == spec, "names agree"
    (folder / "robot_value.json").write_text('{"format_version": 2}')
    with pytest.raises(CheckpointError, match="format_version 2 instead of 1"):
        lerobot_vla.load(folder)


# -- refusals ---------------------------------------------------------------------------------------------------------


def weights(change):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def edited(name, change):
    def damage(folder):
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return damage


def statistics_of_actions_lost(folder):
    path = next(folder.glob("policy_postprocessor*.safetensors"))
    tensors = load_file(path)
    save_file({key: value for key, value in tensors.items() if not key.startswith("action")}, path)


STEP = {"class": "os.path.join", "config": {}}
DAMAGE = {
    "a weight is missing": (weights(lambda t: t.pop(next(iter(t)))), "1 tensors are missing, first diffusion"),
    "a weight too many": (weights(lambda t: t.update(more=torch.zeros(1))), "1 tensors are unexpected, first more"),
    "another shape": (weights(lambda t: t.update({next(iter(t)): torch.zeros(1)})), "size mismatch"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{"), "not safetensors"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "no processor": (lambda f: (f / "policy_postprocessor.json").unlink(), "expected policy_postprocessor.json"),
    "no statistics of actions": (statistics_of_actions_lost, "expected statistics of action for MIN_MAX"),
    "a step that is a class": (
        edited("policy_preprocessor.json", lambda d: d["steps"].append(STEP)),
        "expected registered steps, got os.path.join",
    ),
    "a state file elsewhere": (
        edited("policy_preprocessor.json", lambda d: d["steps"][-1].update(state_file="../secret.safetensors")),
        "secret",
    ),
    "an adapter": (edited("config.json", lambda d: d.update(use_peft=True)), "merge it into its base"),
    "an unknown setting": (edited("config.json", lambda d: d.update(sharpness=3)), "config.json: not understood"),
    "an unknown family": (edited("config.json", lambda d: d.update(type="telepathy")), "telepathy"),
    "json that is none": (lambda f: (f / "policy_preprocessor.json").write_text("{"), "policy_preprocessor.json"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_or_hostile_checkpoint_is_refused_in_one_line(case, checkpoint, tmp_path):
    # mutations: strict=False without looking; no look at "class"; no look at statistics
    damage, message = DAMAGE[case]
    folder = shutil.copytree(checkpoint("diffusion"), tmp_path / "damaged")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        lerobot_vla.load(folder)


def test_pi0_with_damaged_weights_is_an_error_where_lerobot_returns_a_random_model(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("pi0"), tmp_path / "damaged")
    weights(lambda tensors: tensors.pop(sorted(tensors)[0]))(folder)
    with small("pi0"), pytest.raises(CheckpointError, match="1 tensors are missing"):
        lerobot_vla.load(folder)


def test_a_tied_weight_that_is_saved_once_is_not_missing():
    # mutation: missing = found.missing_keys
    tied = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    tied["b"].weight, tied["b"].bias = tied["a"].weight, tied["a"].bias
    with mock.patch.object(
        lerobot_files, "load_file", lambda path: dict(torch.nn.Linear(2, 2).state_dict(prefix="a."))
    ):
        lerobot_files._load_weights(tied, Path("."))
        tied["b"].weight = torch.nn.Parameter(torch.zeros(2, 2))
        with pytest.raises(CheckpointError, match=r"1 tensors are missing, first b.weight"):
            lerobot_files._load_weights(tied, Path("."))


@pytest.mark.parametrize("family", lerobot_vla.UNSTEERABLE)
def test_a_family_that_cannot_be_steered_says_why(family):
    from lerobot.configs import PreTrainedConfig

    assert family in PreTrainedConfig.get_known_choices()
    with pytest.raises(CheckpointError, match=f"{family} cannot be steered: .*{lerobot_vla.UNSTEERABLE[family][-20:]}"):
        lerobot_vla._family(SimpleNamespace(type=family))


def test_smolvla_that_bends_its_actions_afterwards_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("smolvla"), tmp_path / "aloha")
    edited("config.json", lambda d: d.update(adapt_to_pi_aloha=True))(folder)
    with pytest.raises(CheckpointError, match="adapt_to_pi_aloha"):
        lerobot_vla.load(folder)


def test_another_version_of_lerobot_is_warned_of_and_one_with_other_insides_refused(loaded):
    # mutation: the guard looks at names only
    model = loaded("smolvla").model
    with mock.patch.object(lerobot_files, "version", lambda: "0.7.0"):
        with pytest.warns(UserWarning, match=r"tested with lerobot 0.6.1, got 0.7.0"):
            lerobot_files.guard(model, {"model.denoise_step": ("x_t",)})
        with pytest.raises(CheckpointError, match=r"expected model.embed_suffixes, got none; .* lerobot==0.6.1"):
            lerobot_files.guard(model, {"model.embed_suffixes": ()})
    with pytest.raises(CheckpointError, match=r"model.denoise_step: expected parameter x_s"):
        lerobot_files.guard(model, {"model.denoise_step": ("x_t", "x_s")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lerobot_files.guard(model, loaded("smolvla")._family.PRIVATE)


# -- everybody else ---------------------------------------------------------------------------------------------------


def test_a_family_without_an_adapter_is_asked_again_for_every_candidate(checkpoint, loaded):
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
    row = bench.compare(bench.build(tmp_path, quick=True), 3)
    assert row["pictures_encoded"] == {"shared": 1, "naive": 3} and row["largest_difference"] < 1e-5
    fast = row | {"n": 8, "trusted": True, "speedup": (2.9, 2.6, 3.1)}
    cases = [fast, fast | {"speedup": (2.6, 2.4, 2.8)}, fast | {"trusted": False}, fast | {"largest_difference": 0.1}]
    assert [bench.verdict([case], quick=False)["passed"] for case in cases] == [True, False, None, False]
    assert bench.verdict([fast], quick=True)["passed"] is None


# -- as a user does ---------------------------------------------------------------------------------------------------


def test_the_command_adopts_a_checkpoint_and_every_command_that_takes_a_policy_takes_it(checkpoint, tmp_path, capsys):
    # mutations: load_policy without LeRobot; the Spec of a set that we exported is not found
    from robot_value import cli
    from robot_value.training import load_policy

    folder = shutil.copytree(checkpoint("diffusion"), tmp_path / "plain")
    (folder / "robot_value.json").unlink()
    (tmp_path / "set" / "meta").mkdir(parents=True)
    (tmp_path / "set" / "meta" / "robot_value_spec.json").write_text(json.dumps(tiny.spec(environment=2).to_json()))
    words = ["adopt", str(folder), f"--spec={tmp_path / 'set'}"]
    assert cli.main(words) == 2 and "--inputs='{observation.state: NAME NAME ...}'" in capsys.readouterr().err
    inputs = "{observation.state: joint_0 joint_1 joint_2, observation.environment_state: cube_0 cube_1}"
    assert cli.main([*words, f"--inputs={inputs}"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "observation.environment_state <- cube_0, cube_1" in said
    assert "--windowing.horizon=5 --windowing.n_obs_steps=2" in said
    policy = load_policy(folder)
    assert isinstance(policy, lerobot_vla.LeRobotPolicy) and policy.spec.horizon == 5
