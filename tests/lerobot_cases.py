"""Tiny LeRobot checkpoints by name, built and adopted when first asked for, and shared by all tests of a process."""

from __future__ import annotations

import contextlib
import tempfile
from functools import cache
from pathlib import Path

import tiny_lerobot as tiny
from fakes import observation

from robot_value.policies import lerobot_vla

ROOT = tempfile.TemporaryDirectory(prefix="lerobot_cases_")  # gone with the process
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


def small(name):
    """pi0's sizes are in LeRobot's code."""
    return tiny.small_pi(f"modeling_{name}") if name.startswith("pi") else contextlib.nullcontext()


@cache
def checkpoint(name: str) -> Path:
    """Its folder, adopted; a test that changes it takes a copy."""
    build, spec, inputs, backbone = CASES[name]
    with small(name):
        folder = build(Path(ROOT.name) / name.replace(" ", "_"))
        lerobot_vla.adopt(folder, spec, inputs, backbone)
    return folder


@cache
def loaded(name: str) -> lerobot_vla.LeRobotPolicy:
    """Tests that change it restore it."""
    with small(name):
        return lerobot_vla.load(checkpoint(name))


def seen(policy, batch=3):
    return observation(policy.spec, batch, task=TASKS[:batch])
