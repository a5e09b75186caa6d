"""A LeRobot checkpoint from disk: what its numbers mean, whole or not at all, and who cannot be steered."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from contracts import noise
from fakes import observation
from safetensors.torch import load_file, save_file

pytest.importorskip("lerobot", reason='needs lerobot (extra "lerobot")')

import tiny_lerobot as tiny
from lerobot_cases import BY_HAND, TASKS, TOP, checkpoint, loaded, seen, small

from robot_value.checkpoint import CheckpointError
from robot_value.policies import lerobot_files, lerobot_vla

# -- saved and loaded -------------------------------------------------------------------------------------------------


def test_what_was_saved_is_what_is_loaded_also_from_another_folder_and_as_a_run(tmp_path):
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


@pytest.mark.parametrize("inside", [True, False])
def test_other_words_of_a_backbone_are_another_version(inside, tmp_path):
    # mutation: hash the checkpoint's own folder only, so that features of another tokenizer's words are taken for ours
    folder = shutil.copytree(checkpoint("smolvla"), tmp_path / "run")
    if not inside:
        (folder / "vlm").rename(tmp_path / "vlm")
        edited("robot_value.json", lambda d: d.update(backbone="../vlm"))(folder)
    version = lerobot_vla.version(folder)
    assert version == lerobot_vla.load(folder).version and (version == loaded("smolvla").version) == inside
    words = folder / "vlm" if inside else tmp_path / "vlm"
    edited("tokenizer.json", lambda d: d.update(truncation=None, version="1.1"))(words)
    assert lerobot_vla.version(folder) not in (version, loaded("smolvla").version)


# -- names and units --------------------------------------------------------------------------------------------------


def test_state_and_cameras_may_have_other_names_and_another_order_in_the_robot(tmp_path):
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


def test_objects_that_stand_apart_are_the_end_of_the_robot_s_state_unless_told_otherwise(tmp_path):
    # mutation: the objects are taken from the beginning
    folder = shutil.copytree(checkpoint("diffusion"), tmp_path / "apart")
    assert lerobot_vla.adopt(folder, tiny.spec(environment=2), {}).inputs == BY_HAND
    with pytest.raises(CheckpointError, match=r"environment_state: the checkpoint wants \[2\] numbers, got 3"):
        lerobot_vla.adopt(folder, tiny.spec(environment=3), {})


def test_a_camera_that_the_robot_lacks_is_left_blank_where_the_model_can_do_without_it(tmp_path):
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
def test_a_mapping_that_does_not_fit_names_both_sides_and_leaves_the_old_one(case):
    # mutation: write before the policy is built
    spec, inputs, message = WRONG[case]
    folder = checkpoint("smolvla")
    before = (folder / "robot_value.json").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        lerobot_vla.adopt(folder, spec, inputs, "vlm")
    assert (folder / "robot_value.json").read_bytes() == before


def test_pictures_of_another_size_and_actions_in_another_unit_are_refused():
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


def test_without_a_contract_the_error_says_how_to_write_one(tmp_path):
    folder = shutil.copytree(checkpoint("diffusion"), tmp_path / "plain")
    (folder / "robot_value.json").unlink()
    assert lerobot_vla.is_checkpoint(folder) and not lerobot_vla.is_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="robot-value adopt"):
        lerobot_vla.load(folder)
    with pytest.raises(CheckpointError, match=r"environment_state: the checkpoint wants \[2\] numbers, got 3"):
        lerobot_vla.load(folder, spec=tiny.spec(environment=3))
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
def test_a_damaged_or_hostile_checkpoint_is_refused_in_one_line(case, tmp_path):
    # mutations: strict=False without looking; no look at "class"; no look at statistics
    damage, message = DAMAGE[case]
    folder = shutil.copytree(checkpoint("diffusion"), tmp_path / "damaged")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        lerobot_vla.load(folder)


def test_pi0_with_damaged_weights_is_an_error_where_lerobot_returns_a_random_model(tmp_path):
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


def test_smolvla_that_bends_its_actions_afterwards_is_refused(tmp_path):
    folder = shutil.copytree(checkpoint("smolvla"), tmp_path / "aloha")
    edited("config.json", lambda d: d.update(adapt_to_pi_aloha=True))(folder)
    with pytest.raises(CheckpointError, match="adapt_to_pi_aloha"):
        lerobot_vla.load(folder)


def test_another_version_of_lerobot_is_warned_of_and_one_with_other_insides_refused():
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


# -- as a user does ---------------------------------------------------------------------------------------------------


def test_the_command_adopts_a_checkpoint_and_every_command_that_takes_a_policy_takes_it(tmp_path, capsys):
    # mutations: load_policy without LeRobot; the Spec of a set that we exported is not found
    from robot_value import cli
    from robot_value.training import load_policy

    folder = shutil.copytree(checkpoint("diffusion"), tmp_path / "plain")
    (folder / "robot_value.json").unlink()
    (tmp_path / "set" / "meta").mkdir(parents=True)
    (tmp_path / "set" / "meta" / "robot_value_spec.json").write_text(json.dumps(tiny.spec(environment=3).to_json()))
    words = ["adopt", str(folder), f"--spec={tmp_path / 'set'}"]
    assert (
        cli.main(words) == 2 and "--inputs='{observation.environment_state: NAME NAME ...}'" in capsys.readouterr().err
    )
    inputs = "{observation.state: joint_0 joint_1 joint_2, observation.environment_state: cube_0 cube_1}"
    assert cli.main([*words, f"--inputs={inputs}"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "observation.environment_state <- cube_0, cube_1" in said
    assert "--windowing.horizon=5 --windowing.n_obs_steps=2" in said
    policy = load_policy(folder)
    assert isinstance(policy, lerobot_vla.LeRobotPolicy) and policy.spec.horizon == 5
