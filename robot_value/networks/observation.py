"""What a policy or critic sees, as one vector: normalised state history, cameras, task text and goal, concatenated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..normalize import Normalizer, Statistics
from ..types import Spec
from .augment import random_shift
from .images import ImageEncoder
from .text import TextEncoder

if TYPE_CHECKING:
    from ..sampling import TensorObservation


@dataclass(frozen=True)
class EncoderConfig:
    """How observations become features; the same for policies and critics."""

    image_features: int = 64  # features per camera and observation step; own choice, small CPU networks
    image_channels: tuple[int, ...] = (32, 64, 128)  # channels of the ResNet's stages, each halves the image
    image_pooling: str = "spatial_softmax"  # spatial_softmax | average; Levine et al. 2016, diffusion_policy
    text_features: int = 32  # features of the task text, where the spec has language
    shift: int = 4  # pixels of random-shift augmentation while training, 0 is off; DrQ uses 4 on 84 pixels
    goal: bool = False  # see a goal too (its last frame); training relabels recorded frames as goals
    taco: float = 0.0  # critics only: weight of TACO's contrastive loss (critics/auxiliary.py), 0 is off; TACO uses 1
    source: str = "own"  # own | policy; critics only: the features of the frozen --base (policy_features.py)
    projection: tuple[int, ...] = ()  # with source=policy: widths of a learned MLP on top
    pooling: str = "mean"  # mean | query (learned, as Hume's); with source=policy: how a VLA's tokens become one vector
    query_width: int = 64  # of the value query; Hume 2048, as wide as its tokens
    query_heads: int = 4  # its attention heads; Hume 8
    policy_features: int = 0  # width of the policy's features; training fills it in
    policy_tokens: int = 0  # width of the tokens that the query reads; training fills it in
    policy_version: str = ""  # which policy that is; training fills it in


class ObservationEncoder(nn.Module):
    """TensorObservation -> float32[B, features]. Without cameras and language it has no parameters."""

    def __init__(self, spec: Spec, statistics: Mapping[str, Statistics], config: EncoderConfig) -> None:
        super().__init__()
        if config.source != "own" or config.taco:
            raise ValueError(
                f"encoder: expected source=own and taco=0 here, got source={config.source} and taco={config.taco:g}; "
                "only critics see through a policy's eyes or learn with TACO"
            )
        if spec.n_obs_steps < 1:
            raise ValueError("spec.n_obs_steps: expected at least 1, got 0; decide with spec.choose(n_obs_steps=...)")
        self.spec, self.config = spec, config
        self.state = Normalizer.of(statistics, "state", "mean_std") if spec.state_dim else None
        self.cameras = nn.ModuleDict(
            {
                camera.name: ImageEncoder(config.image_features, tuple(config.image_channels), config.image_pooling)
                for camera in spec.cameras
            }
        )
        self.text = TextEncoder(config.text_features) if spec.language else None
        frames = spec.n_obs_steps + config.goal
        self.features = frames * (spec.state_dim + len(spec.cameras) * config.image_features)
        self.features += config.text_features if spec.language else 0

    def forward(self, observation: TensorObservation) -> Tensor:
        pieces = self._frames(observation.state, observation.images)
        if self.text is not None:
            pieces.append(self.text(observation.tasks, observation.task))
        if self.config.goal:
            goal = _goal(observation)
            pieces += self._frames(goal.state[:, -1:], {name: image[:, -1:] for name, image in goal.images.items()})
        return torch.cat(pieces, -1)

    def _frames(self, state: Tensor, images: Mapping[str, Tensor]) -> list[Tensor]:
        """state float32[B, O, S] and images uint8[B, O, h, w, 3] -> pieces [B, O * width]."""
        pieces = [] if self.state is None else [self.state.normalize(state).flatten(1)]
        for name, encoder in self.cameras.items():
            rows = images[name].shape[:2]
            pieces.append(encoder(images[name].flatten(0, 1)).unflatten(0, rows).flatten(1))
        return pieces

    def augment(self, observation: TensorObservation, generator: torch.Generator | None) -> TensorObservation:
        """The observation with its images (and its goal's) shifted at random; for training only."""
        if not self.cameras or not self.config.shift:
            return observation
        shifted = self._shifted(observation, generator)
        return replace(shifted, goal=self._shifted(_goal(observation), generator)) if self.config.goal else shifted

    def _shifted(self, observation: TensorObservation, generator: torch.Generator | None) -> TensorObservation:
        images = {name: random_shift(x, self.config.shift, generator) for name, x in observation.images.items()}
        return replace(observation, images=images)


def _goal(observation: TensorObservation) -> TensorObservation:
    if observation.goal is None:
        raise ValueError("goal: expected one with every observation (encoder.goal), got none; set Observation.goal")
    return observation.goal
