"""A policy and a critic without networks that misbehave on order: third-party components of real checkpoints.

What is wrong is read from the JSON file that ORDERS names, at every call: {"policy": "nan", "critic": "nan", ...}.
    policy: nan_some | nan | sleep SECONDS | raise | raise_many (n > 1 only) | kill | far (500 rad)
    critic: nan_some | nan | constant | unsure
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robot_value import checkpoint
from robot_value.normalize import Statistics
from robot_value.types import Features, Scores, Spec

ORDERS = "ROBOT_VALUE_FAULT_ORDERS"
NAME = "benchmarks.faults_models"


def orders() -> dict[str, Any]:
    path = os.environ.get(ORDERS, "")
    return json.loads(Path(path).read_text()) if path and Path(path).exists() else {}


def give_orders(path: Path, **what: Any) -> None:
    """Whole or not at all: a node may read it right now."""
    path.with_suffix(".new").write_text(json.dumps(what))
    path.with_suffix(".new").replace(path)


@dataclass(frozen=True)
class Config:
    role: str = "policy"  # policy | critic
    amplitude: float = 0.15  # rad, of a slow sine around `home`
    frequency: float = 0.3  # Hz
    home: tuple[float, ...] = ()  # rad, per action dim
    scope: int = 4  # control steps a critic looks at

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> nn.Module:
        model = (Wave if self.role == "policy" else Judge)(self, spec)
        model.statistics = dict(statistics)
        return model


class Wave(nn.Module):
    """Every joint on one sine of the control step; candidates differ a little in amplitude."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.register_buffer("home", torch.tensor(config.home or [0.0] * spec.action_dim))

    def encode(self, observation: Any) -> Features:
        return Features(torch.from_numpy(observation.step.astype(np.float32))[:, None])

    def sample(self, context, n, noise, prefix=None, guide=None):
        order = orders().get("policy", "")
        _misbehave(order, n)
        steps = context.value[:, :, None] + 1 + torch.arange(self.spec.horizon)  # [B, 1, H]
        phase = 2 * math.pi * self.config.frequency * self.spec.dt * steps
        rise = (steps * self.spec.dt).clamp_max(1.0)
        size = self.config.amplitude * (1 + 0.02 * noise[:, :, 0, 0].clamp(-2, 2))[..., None]  # [B, n, 1]
        chunks = self.home + (size * rise * torch.sin(phase))[..., None].expand(*noise.shape)
        if prefix is not None:
            chunks = torch.cat([prefix[:, None].expand(-1, n, -1, -1), chunks[:, :, prefix.shape[1] :]], 2)
        return _spoiled(chunks.clone(), order), torch.full(noise.shape[:2], self.spec.horizon)


def _misbehave(order: str, n: int) -> None:
    word, _, number = order.partition(" ")
    if word == "sleep":
        time.sleep(float(number))
    elif word == "raise" or (word == "raise_many" and n > 1):
        raise RuntimeError("CUDA error: out of memory (ordered)")
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def _spoiled(chunks: torch.Tensor, order: str) -> torch.Tensor:
    if order == "nan":
        chunks[...] = torch.nan
    elif order == "nan_some":
        chunks[:, ::2, 1] = torch.nan
    elif order == "far":
        chunks += 500.0
    return chunks


class Judge(nn.Module):
    """Likes joints far up."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config, self.spec, self.scope = config, spec, config.scope

    def encode(self, observation: Any, policy_context: Any = None) -> Features:
        return Features(torch.from_numpy(observation.state[:, -1]))

    def score(self, context, chunks, lengths) -> Scores:
        order = orders().get("critic", "")
        value = chunks.mean((2, 3))
        value = torch.zeros_like(value) if order == "constant" else value
        spread = torch.full_like(value, 100.0 if order == "unsure" else 1e-3)
        if order == "nan":
            value = torch.full_like(value, torch.nan)
        elif order == "nan_some":
            value[:, ::2] = torch.nan
        return Scores(value, spread, torch.ones_like(value, dtype=torch.bool))


def save(folder: Path, spec: Spec, role: str, **config: Any) -> Path:
    """A checkpoint of the policy or the critic."""
    made = Config(role=role, **config)
    statistics = {
        "state": _around(np.zeros(spec.state_dim), 1.0),
        "action": _around(np.resize(made.home or 0.0, spec.action_dim), made.amplitude),  # chunks are clipped: see F22
    }
    model = made.build(spec, statistics)
    checkpoint.save(
        folder,
        kind="policies" if role == "policy" else "critics",
        name=NAME,
        config={key: list(value) if isinstance(value, tuple) else value for key, value in vars(made).items()},
        spec=spec,
        tensors=model.state_dict(),
        statistics=statistics,
    )
    return folder


def _around(mean: np.ndarray, std: float) -> Statistics:
    width = np.full_like(mean, std, dtype=np.float64)
    return Statistics(mean=mean, std=width, low=mean - 2 * width, high=mean + 2 * width, count=10)
