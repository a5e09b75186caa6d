"""One run of a critic and a policy for the scale tests: what `fit` would make of it, and what it leaves."""

from __future__ import annotations

import json

import pytest
import torch
from test_joint_training import PAIRS, SPEC

from robot_value import checkpoint
from robot_value.learners import CriticLearner, JointLearner, Optimization, PolicyLearner
from robot_value.normalize import fit_statistics
from robot_value.sampling import ChunkSampler, split_episodes

NEAR = {"rtol": 0, "atol": 1e-5}
AT_ONCE = Optimization(warmup=0)  # or the first steps would be too small to tell models apart


def setup(cache, config, index: int = 0, number: int = 1):
    """What `fit` would make for this rank; models are made one after the other, because their weights are drawn."""
    measured = fit_statistics({"state": cache.state, "action": cache.action})
    critic, policy = (each.build(SPEC, measured, cache.tasks) for each in PAIRS["qc"])
    learner = JointLearner(CriticLearner(critic), PolicyLearner(policy, config.steps, AT_ONCE))
    samplers = [
        ChunkSampler(cache, 4, 1, (4,), 0.99, config.batch_size, config.seed, episodes, share=(index, number))
        for episodes in split_episodes(len(cache), 0.25, config.seed)
    ]
    return learner, samplers[0], config, samplers[1]


def tensors(folder) -> torch.Tensor:
    """Of the newest checkpoints of a run."""
    found = [checkpoint.load(checkpoint.newest(folder / part)).tensors for part in ("critic", "policy")]
    return torch.cat([tensor.double().flatten() for part in found for tensor in part.values()])


def curves(folder):
    return json.loads((folder / "curves.json").read_text())


def assert_the_same_run(folder, straight, drawn=("train", "validation")):
    torch.testing.assert_close(tensors(folder), tensors(straight), **NEAR)
    for curve in drawn:
        assert curves(folder)[curve].keys() == curves(straight)[curve].keys()
        for name, values in curves(straight)[curve].items():
            assert curves(folder)[curve][name] == pytest.approx(values, rel=1e-3, abs=1e-4), (curve, name)
