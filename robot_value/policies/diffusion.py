"""A diffusion chunk policy (Chi et al. 2023): noise becomes a chunk of H actions by deterministic denoising (DDIM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..diffusion import PREDICTIONS, Predict, add_noise, alphas_bar, ddim, make_scheduler
from ..flow import Guide, masked_square
from ..networks.chunk_head import chunk_head
from ..networks.observation import EncoderConfig, ObservationEncoder
from ..networks.seeding import integers, normal, seeded_weights
from ..normalize import Normalizer, Statistics
from ..sampling import to_tensors
from ..types import Features, Observation, Spec
from ._chunks import check_horizon, check_noise, clip, full_lengths, in_spec_units, sample_chunks

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    head: str = "mlp"  # mlp | transformer: the network over the chunk; mlp is enough on state
    width: int = 256  # hidden width (mlp) or token width (transformer); measured enough on Lift
    depth: int = 3  # hidden layers (mlp) or blocks (transformer)
    heads: int = 4  # attention heads, transformer only
    prediction: str = "sample"  # epsilon | sample: what the network predicts; sample learned faster with few steps
    schedule: str = "squaredcos_cap_v2"  # noise schedule by diffusers' name; diffusion_policy's choice
    train_steps: int = 100  # noise levels in training; diffusion_policy's choice
    sample_steps: int = 10  # denoising steps, must divide train_steps
    normalization: str = "min_max"  # mean_std | min_max of the actions; min_max puts data in [-1, 1] and clips there
    tile: int = 1024  # rows sampled at a time; 512-2048 keeps activations in a CPU's cache
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> DiffusionPolicy:
        with seeded_weights(self.seed):
            return DiffusionPolicy(self, spec, statistics, tasks)


class DiffusionPolicy(nn.Module):
    def __init__(
        self, config: Config, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()
    ) -> None:
        super().__init__()
        check_horizon(spec)
        if config.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {config.prediction!r}")
        if config.prediction == "epsilon" and config.normalization != "min_max":
            # The first clean chunk is (x - eps) times 1 / sqrt(abar) ~ 2000: only clipping to [-1, 1] tames it.
            raise ValueError(f"normalization: expected min_max with prediction epsilon, got {config.normalization!r}")
        self.config, self.spec, self.statistics, self.tasks = config, spec, dict(statistics), tuple(tasks)
        self.sample_steps = config.sample_steps
        self.scheduler = make_scheduler(config.train_steps, config.schedule)
        self.actions = Normalizer.of(statistics, "action", config.normalization)
        self.encoder = ObservationEncoder(spec, statistics, config.encoder)
        self.head = chunk_head(
            config.head, self.encoder.features, spec.horizon, spec.action_dim, config.width, config.depth, config.heads
        )
        self.register_buffer("low", torch.from_numpy(spec.low), persistent=False)
        self.register_buffer("high", torch.from_numpy(spec.high), persistent=False)

    @torch.no_grad()
    def encode(self, observation: Observation) -> Features:
        return Features(self.encoder(to_tensors(observation, self.low.device)))

    @torch.no_grad()
    def sample(
        self,
        context: Features,
        n: int,
        noise: Tensor,  # float32[B, n, H, A], standard normal
        prefix: Tensor | None = None,  # float32[B, p, A], spec units
        guide: Guide | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Chunks float32[B, n, H, A] in spec units, NaN where pruned or not finite, and lengths int64[B, n]."""
        check_noise(noise, len(context.value), n, self.spec)
        x = sample_chunks(
            self._network,
            self._integrate,
            noise.to(self.low),
            self.head.condition(context.value),
            None if prefix is None else self.actions.normalize(prefix.to(self.low)),
            in_spec_units(guide, self.actions),
            self.config.tile,
        )
        chunks = clip(self.actions.unnormalize(x), self.low, self.high)
        return chunks, full_lengths(chunks)

    def _network(self, x: Tensor, t: float, condition: Tensor) -> Tensor:
        return self.head(x, torch.full((1,), t / self.config.train_steps, device=x.device), condition)

    def _integrate(self, predict: Predict, noise: Tensor, guide: Guide | None, prefix: Tensor | None) -> Tensor:
        limit = 1.0 if self.config.normalization == "min_max" else None
        steps, prediction = self.sample_steps, self.config.prediction
        return ddim(predict, noise, self.scheduler, steps, prediction, limit, guide, prefix)

    def loss(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Denoising on the valid steps of the batch's chunks."""
        observation = self.encoder.augment(batch.observation, generator) if self.training else batch.observation
        data = self.actions.normalize(batch.chunks)
        noise = normal(data.shape, data.device, generator)
        timestep = integers(0, self.config.train_steps, data.shape[:1], data.device, generator)
        x = add_noise(data, noise, alphas_bar(self.scheduler, timestep))
        condition = self.head.condition(self.encoder(observation))
        out = self.head(x, timestep / self.config.train_steps, condition)
        error = out - (noise if self.config.prediction == "epsilon" else data)
        loss = masked_square(error, batch.valid[:, : self.spec.horizon], batch.weight)
        return loss, {"loss": loss.detach()}
