"""What a critic sees: by its own encoder, or through the eyes of the frozen policy that it judges.

A policy's features are what a large model has learned already; only what stands on top of them is trained (Digi-Q,
Bai et al. 2025, arXiv 2502.15760). A vision-language model's tokens are averaged, or read by a learned query (Hume,
Song et al. 2025, arXiv 2505.21432). Nothing of the policy is saved with the critic but its widths and version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..normalize import Statistics
from ..types import Features, Seen, Spec
from .mlp import mlp
from .observation import EncoderConfig, ObservationEncoder
from .value_query import over_tokens

if TYPE_CHECKING:
    from ..protocols import Context
    from ..sampling import TensorObservation

SOURCES = ("own", "policy")
POOLINGS = ("mean", "query")


class PolicyFeatures(nn.Module):
    """What a policy made of B observations, without gradient -> float32[B, features]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        _check(config)
        asks = config.pooling == "query"
        width = config.policy_features + asks * config.query_width
        self.config = config
        self.query = over_tokens(config.policy_tokens, config.query_width, config.query_heads) if asks else None
        self.features = config.projection[-1] if config.projection else width
        hidden = config.projection[:-1]
        self.projection = mlp(width, hidden, self.features, True) if config.projection else None

    def forward(self, seen: Tensor | Seen) -> Tensor:
        """A policy's context is one vector float32[B, V], or what it saw with tokens."""
        if self.query is None:
            features = self._checked(averaged(seen), "B", self.config.policy_features)
        else:
            tokens = self._checked(getattr(seen, "tokens", seen), "B, P", self.config.policy_tokens)
            vector = self._checked(seen.vector, "B", self.config.policy_features)
            features = torch.cat([vector, self.query(tokens, seen.mask)], 1)
        return features if self.projection is None else self.projection(features)

    @staticmethod
    def _checked(got: Tensor, rows: str, width: int) -> Tensor:
        """Without gradient."""
        if got.shape[-1] != width or got.dim() != len(rows.split(",")) + 1:
            raise ValueError(
                f"policy features: expected float32[{rows}, {width}], got {list(got.shape)}; "
                "is this the policy that the critic was trained with?"
            )
        return got.detach()


def averaged(seen: Tensor | Seen) -> Tensor:
    """float32[B, V + D]: the vector and the mean of the tokens that are there."""
    if isinstance(seen, Tensor):
        return seen
    if not seen.tokens.shape[2]:
        return seen.vector
    there = seen.mask[..., None].to(seen.tokens.dtype)
    return torch.cat([seen.vector, (seen.tokens * there).sum(1) / there.sum(1).clamp_min(1)], 1)


def context_of(policy: Any, observation: TensorObservation) -> Context:
    """A policy's context of what was recorded; LeRobot's remembers more than a critic sees of it."""
    return policy.see(observation) if hasattr(policy, "see") else Features(policy.encoder(observation))


def critic_encoder(spec: Spec, statistics: Mapping[str, Statistics], config: EncoderConfig) -> nn.Module:
    """ObservationEncoder or PolicyFeatures. TACO is the critic's business, not the encoder's."""
    if config.source not in SOURCES:
        raise ValueError(f"encoder.source: expected {' or '.join(SOURCES)}, got {config.source!r}")
    if config.source == "policy":
        return PolicyFeatures(config)
    if config.pooling != "mean":
        raise ValueError(
            f"encoder.pooling: expected mean with source=own, got {config.pooling}; that reads VLAs' tokens"
        )
    if config.taco and not spec.cameras and not spec.language:
        raise ValueError("encoder.taco: expected an encoder with weights (cameras or language), got state only; set 0")
    return ObservationEncoder(spec, statistics, replace(config, taco=0.0))


def widths(policy: Any) -> tuple[int, int]:
    """Of what a policy makes of an observation: its vector's, and its tokens' (0: none)."""
    return policy.widths if hasattr(policy, "widths") else (policy.encoder.features, 0)


def seen_through(config: EncoderConfig, policy: Any) -> EncoderConfig:
    """The config with the policy's widths and version filled in."""
    vector, tokens = widths(policy)
    if config.pooling == "mean":
        vector, tokens = vector + tokens, 0
    version = getattr(policy, "version", "")
    return replace(config, policy_features=vector, policy_tokens=tokens, policy_version=version)


def check_policy(config: EncoderConfig, policy: Any) -> None:
    """Raise ValueError where a critic that sees through a policy's eyes is given another policy's."""
    version = getattr(policy, "version", "")
    if config.source == "policy" and version != config.policy_version:
        raise ValueError(
            f"the critic sees through the policy {config.policy_version or 'without version'!r}, "
            f"got {version or 'one without version'!r}; steer that policy or train the critic again"
        )


def check_pooling(pooling: str, tokens: int) -> None:
    """tokens: their width, 0 where the policy gives none."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: expected {' or '.join(POOLINGS)}, got {pooling!r}")
    if pooling == "query" and tokens < 1:
        raise ValueError(
            "pooling=query: expected a policy that gives tokens (LeRobot's smolvla, pi0, pi05), got one that gives a "
            "vector; use mean"
        )


def _check(config: EncoderConfig) -> None:
    if config.policy_features + config.policy_tokens < 1:
        raise ValueError(
            "encoder.source=policy: expected the width of the policy's features, got 0; "
            "train with --base=CHECKPOINT of the policy that will be steered"
        )
    check_pooling(config.pooling, config.policy_tokens)
    if config.goal or config.taco:
        raise ValueError(
            f"encoder.source=policy: expected goal=false and taco=0, got {config.goal} and {config.taco:g}; "
            "the policy's features are what they are"
        )
