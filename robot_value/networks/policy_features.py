"""What a critic sees: by its own encoder, or through the eyes of the frozen policy that it judges.

A policy's features are what a large model has learned already; only what stands on top of them is trained (Digi-Q,
Bai et al. 2025, arXiv 2502.15760). Nothing of the policy is saved with the critic but its width and version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..normalize import Statistics
from ..types import Spec
from .mlp import mlp
from .observation import EncoderConfig, ObservationEncoder

SOURCES = ("own", "policy")


class PolicyFeatures(nn.Module):
    """A policy's features float32[B, policy_features], without gradient -> float32[B, features]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if config.policy_features < 1:
            raise ValueError(
                "encoder.source=policy: expected the width of the policy's features, got 0; "
                "train with --base=CHECKPOINT of the policy that will be steered"
            )
        if config.goal or config.taco:
            raise ValueError(
                f"encoder.source=policy: expected goal=false and taco=0, got {config.goal} and {config.taco:g}; "
                "the policy's features are what they are"
            )
        self.config = config
        self.features = config.projection[-1] if config.projection else config.policy_features
        hidden = config.projection[:-1]
        self.projection = mlp(config.policy_features, hidden, self.features, True) if config.projection else None

    def forward(self, features: Tensor) -> Tensor:
        if features.dim() != 2 or features.shape[1] != self.config.policy_features:
            raise ValueError(
                f"policy features: expected float32[B, {self.config.policy_features}], got {list(features.shape)}; "
                "is this the policy that the critic was trained with?"
            )
        return features.detach() if self.projection is None else self.projection(features.detach())


def critic_encoder(spec: Spec, statistics: Mapping[str, Statistics], config: EncoderConfig) -> nn.Module:
    """ObservationEncoder or PolicyFeatures. TACO is the critic's business, not the encoder's."""
    if config.source not in SOURCES:
        raise ValueError(f"encoder.source: expected {' or '.join(SOURCES)}, got {config.source!r}")
    if config.source == "policy":
        return PolicyFeatures(config)
    if config.taco and not spec.cameras and not spec.language:
        raise ValueError("encoder.taco: expected an encoder with weights (cameras or language), got state only; set 0")
    return ObservationEncoder(spec, statistics, replace(config, taco=0.0))


def seen_through(config: EncoderConfig, policy: nn.Module) -> EncoderConfig:
    """The config with the policy's width and version filled in."""
    version = getattr(policy, "version", "")
    return replace(config, policy_features=policy.encoder.features, policy_version=version)


def check_policy(config: EncoderConfig, policy: Any) -> None:
    """Raise ValueError where a critic that sees through a policy's eyes is given another policy's."""
    version = getattr(policy, "version", "")
    if config.source == "policy" and version != config.policy_version:
        raise ValueError(
            f"the critic sees through the policy {config.policy_version or 'without version'!r}, "
            f"got {version or 'one without version'!r}; steer that policy or train the critic again"
        )
