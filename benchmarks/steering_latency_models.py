"""The policies and critics that bench_steering_latency.py times. Weights are random: speed does not depend on them.

`LARGE` has the parameters of the flow transformer of the reference study: two cameras of 224 x 224 pixels through a
ResNet each, and a transformer over H = 16 steps, 50M in all. Its critic looks through the policy's eyes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from robot_value.critics import iql
from robot_value.critics.chunk_critic import ChunkCritic
from robot_value.networks.observation import EncoderConfig
from robot_value.networks.seeding import seeded_weights
from robot_value.normalize import fit_statistics
from robot_value.policies import flow
from robot_value.types import ActionPart, Camera, Observation, Spec

STATE, ACTION = 8, 7  # dims; one arm with a gripper


@dataclass(frozen=True)
class Size:
    pixels: int  # height and width of both cameras
    channels: tuple[int, ...]  # of each camera's ResNet
    features: int  # per camera
    horizon: int  # H, steps
    width: int  # tokens
    depth: int  # blocks
    hidden: tuple[int, ...]  # of the critic's two members


LARGE = Size(224, (64, 128, 256, 512), 512, 16, 512, 8, (512,) * 4)
SMOKE = Size(16, (16,), 8, 16, 32, 2, (32,))


def build(size: Size, sample_steps: int = 10) -> tuple[flow.FlowPolicy, ChunkCritic, Observation]:
    spec, rng = make_spec(size), np.random.default_rng(0)
    statistics = fit_statistics(
        {
            "state": rng.standard_normal((1000, STATE)).astype(np.float32),
            "action": rng.uniform(-1, 1, (1000, ACTION)).astype(np.float32),
        }
    )
    encoder = EncoderConfig(image_features=size.features, image_channels=size.channels)
    config = flow.Config("transformer", size.width, size.depth, heads=8, sample_steps=sample_steps, encoder=encoder)
    policy = config.build(spec, statistics).eval()
    open_gates(policy)
    eyes = EncoderConfig(source="policy", policy_features=policy.encoder.features)
    critic = iql.Config(members=2, hidden=size.hidden, encoder=eyes).build(spec, statistics).eval()
    return policy, critic, observe(spec, rng)


def make_spec(size: Size) -> Spec:
    arm = ActionPart("arm", 0, ACTION, "other", "1", (-1.0,) * ACTION, (1.0,) * ACTION)
    names = tuple(f"s{i}" for i in range(STATE))
    cameras = tuple(Camera(name, size.pixels, size.pixels) for name in ("front", "wrist"))
    return Spec((arm,), names, ("1",) * STATE, dt=0.05, cameras=cameras, horizon=size.horizon, n_obs_steps=1)


def open_gates(policy: flow.FlowPolicy) -> None:
    """A fresh block's gates are zero and it changes nothing; a trained one's are not."""
    with seeded_weights(1):
        for block in policy.head.blocks:
            nn.init.normal_(block.modulation.bias)


def observe(spec: Spec, rng: np.random.Generator) -> Observation:
    return Observation(
        state=rng.standard_normal((1, 1, spec.state_dim)).astype(np.float32),
        images={c.name: rng.integers(0, 256, (1, 1, c.height, c.width, 3)).astype(np.uint8) for c in spec.cameras},
        task=("",),
        time=np.zeros(1),
        step=np.zeros(1, np.int64),
        episode=np.zeros(1, np.int64),
        pending=np.zeros((1, 0, spec.action_dim), np.float32),
        committed=np.zeros(1, np.int64),
    )


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())
