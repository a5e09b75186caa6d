"""Temporal ensembling (ACT, Zhao et al. 2023, arXiv 2304.13705): the average of what all recent chunks say for a step.

Numbers relative to a chunk's start have another origin in every chunk and are never averaged: the newest one speaks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...types import Decision, Observation, Spec
from ._mix import mix
from ._recent import Recent, expect_known, expect_spec


@dataclass(frozen=True)
class Config:
    m: float = -0.01  # decay per control step of a chunk's age; ACT's 0.01 counts from the oldest, which is -0.01 here

    def build(self) -> Ensemble:
        return Ensemble(self.m)


@dataclass
class Ensemble:
    m: float
    spec: Spec | None = None
    recent: Recent = field(default_factory=Recent)

    def check(self, spec: Spec) -> None:
        self.spec = spec

    # a = sum_c w_c c[step - start_c] / sum_c w_c, w_c = exp(-m age_c), age_c = step - start_c
    def action(self, observation: Observation, decision: Decision, offset: np.ndarray) -> np.ndarray:
        """float32[B, A]. A decision that has not started says nothing yet."""
        self.recent.add(observation, decision)
        said = self.recent.said(observation)  # [M, B, H, A]
        owner = self.recent.owner(said)
        said = said[:, :, :1]
        if len(said) == 1:
            return expect_known(said[0, :, 0], observation, decision)
        known = ~np.isnan(said[:, :, 0]).any(-1)  # [M, B]
        start = np.stack([memory.start_step for memory in self.recent.told])
        age = np.where(known, observation.step - start, decision.chunk.shape[1])  # known ones are younger than H
        weights = known * np.exp(-self.m * (age - age.min(0)))  # the newest has weight 1: none can vanish
        action = mix(said.swapaxes(0, 1), self._per_dim(weights.T, owner), owner.clip(0), expect_spec(self.spec))
        return expect_known(np.where(owner[:, None] >= 0, action[:, 0], np.nan), observation, decision)

    def _per_dim(self, weights: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """float64[B, M, 1, A] of weights [B, M]: normalised, all on the newest chunk where the origin is its start."""
        weights = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
        newest = np.arange(weights.shape[1]) == owner[:, None]  # [B, M]
        parts = expect_spec(self.spec).parts
        alone = np.concatenate([[part.reference == "chunk_start"] * (part.stop - part.start) for part in parts])
        return np.where(alone, newest[..., None], weights[..., None])[:, :, None]
