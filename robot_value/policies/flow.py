"""A flow-matching chunk policy: noise becomes a chunk of H actions along the velocity a small network predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..flow import SAMPLERS, Guide, Velocity, from_time, interpolate, masked_square, velocity_target
from ..networks.chunk_head import chunk_head
from ..networks.observation import EncoderConfig, ObservationEncoder
from ..networks.seeding import normal, seeded_weights, uniform
from ..normalize import Normalizer, Statistics
from ..sampling import to_tensors
from ..types import Features, Observation, Spec
from ._chunks import check_horizon, check_noise, check_times, clip, full_lengths, in_spec_units, in_tiles, sample_chunks

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    head: str = "mlp"  # mlp | transformer: the network over the chunk; mlp is enough on state
    width: int = 256  # hidden width (mlp) or token width (transformer); measured enough on Lift
    depth: int = 3  # hidden layers (mlp) or blocks (transformer)
    heads: int = 4  # attention heads, transformer only
    sample_steps: int = 10  # integration steps from noise to chunk; Q-chunking uses 10
    sampler: str = "euler"  # euler | midpoint (two network calls per step)
    normalization: str = "mean_std"  # mean_std | min_max of the actions; mean_std matches the noise's spread
    tile: int = 1024  # rows sampled at a time; 512-2048 keeps activations in a CPU's cache
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> FlowPolicy:
        with seeded_weights(self.seed):
            return FlowPolicy(self, spec, statistics, tasks)


class FlowPolicy(nn.Module):
    def __init__(
        self, config: Config, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()
    ) -> None:
        super().__init__()
        check_horizon(spec)
        if config.sampler not in SAMPLERS:
            raise ValueError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {config.sampler!r}")
        self.config, self.spec, self.statistics, self.tasks = config, spec, dict(statistics), tuple(tasks)
        self.sample_steps = config.sample_steps
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

    # x = (1 - start) z + start chunk, then the flow from `start` to 1
    @torch.no_grad()
    def finish(
        self,
        context: Features,
        chunks: Tensor,  # float32[B, n, H, A], spec units: what the chunks look like so far, another model's too
        start: float | Tensor,  # flow time in [0, 1], or one per candidate [B, n]; 0 is `sample`, 1 keeps the chunk
        noise: Tensor,  # float32[B, n, H, A], standard normal
    ) -> Tensor:
        """Chunks float32[B, n, H, A] in spec units, NaN where not finite; `sample_steps` steps whatever `start` is."""
        batch, n = noise.shape[:2]
        check_noise(noise, len(context.value), n, self.spec)
        check_noise(chunks, batch, n, self.spec, "chunks")
        times = check_times(torch.as_tensor(start, dtype=self.low.dtype, device=self.low.device)).expand(batch, n)
        data, noise = (x.to(self.low).flatten(0, 1) for x in (self.actions.normalize(chunks.to(self.low)), noise))
        times, condition = times.reshape(-1), self.head.condition(context.value)

        def path(x: Tensor, time: Tensor, row: Tensor) -> Tensor:
            own = condition[row]
            velocity = from_time(time[:, None], lambda x, t: self.head(x[:, 0], t[:, 0], own)[:, None])
            return self._integrate(velocity, x[:, None], None, None)

        row = torch.arange(batch, device=times.device).repeat_interleave(n)
        x = in_tiles(path, self.config.tile, (interpolate(noise, data, times), times, row))
        return clip(self.actions.unnormalize(x.view_as(chunks)), self.low, self.high)

    def _network(self, x: Tensor, t: float, condition: Tensor) -> Tensor:
        return self.head(x, torch.full((1,), t, device=x.device), condition)

    def _integrate(self, velocity: Velocity, noise: Tensor, guide: Guide | None, prefix: Tensor | None) -> Tensor:
        return SAMPLERS[self.config.sampler](velocity, noise, self.sample_steps, guide, prefix)

    def loss(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow matching on the valid steps of the batch's chunks."""
        observation = self.encoder.augment(batch.observation, generator) if self.training else batch.observation
        data = self.actions.normalize(batch.chunks)
        noise = normal(data.shape, data.device, generator)
        t = uniform(data.shape[:1], data.device, generator)
        condition = self.head.condition(self.encoder(observation))
        velocity = self.head(interpolate(noise, data, t), t, condition)
        error = velocity - velocity_target(noise, data)
        loss = masked_square(error, batch.valid[:, : self.spec.horizon], batch.weight)
        return loss, {"loss": loss.detach()}
