"""What a policy or critic sees, as one feature vector: normalised state history, cameras, task text, concatenated."""

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


class ObservationEncoder(nn.Module):
    """TensorObservation -> float32[B, features]. Without cameras and language it has no parameters."""

    def __init__(self, spec: Spec, statistics: Mapping[str, Statistics], config: EncoderConfig) -> None:
        super().__init__()
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
        steps = spec.n_obs_steps
        self.features = steps * (spec.state_dim + len(spec.cameras) * config.image_features)
        self.features += config.text_features if spec.language else 0

    def forward(self, observation: TensorObservation) -> Tensor:
        pieces = []
        if self.state is not None:
            pieces.append(self.state.normalize(observation.state).flatten(1))
        for name, encoder in self.cameras.items():
            images = observation.images[name]  # uint8[B, O, h, w, 3]
            pieces.append(encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1))
        if self.text is not None:
            pieces.append(self.text(observation.tasks, observation.task))
        return torch.cat(pieces, -1)

    def augment(self, observation: TensorObservation, generator: torch.Generator | None) -> TensorObservation:
        """The observation with its images shifted at random; for training only."""
        if not self.cameras or not self.config.shift:
            return observation
        images = {name: random_shift(x, self.config.shift, generator) for name, x in observation.images.items()}
        return replace(observation, images=images)
