"""What sampling chunk policies share: tiles of rows, limits, and a guide that speaks the Spec's units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..flow import Guide
from ..normalize import Normalizer
from ..types import Spec, Steering

Network = Callable[[Tensor, float, Tensor], Tensor]  # (x [rows, H, A], t, condition [rows, C]) -> [rows, H, A]
Integrate = Callable[..., Tensor]  # (predict(x, t), noise [B, N, H, A], guide, prefix) -> x, same shape


def sample_chunks(
    network: Network,
    integrate: Integrate,
    noise: Tensor,  # [B, N, H, A]
    condition: Tensor,  # [B, C], of the observation
    prefix: Tensor | None,  # [B, p, A], model units
    guide: Guide | None,  # in model units
    tile: int,  # rows
) -> Tensor:
    """All B * N candidates as one batch: a tile at a time through all steps, or step by step where a guide looks on."""
    n = noise.shape[1]
    if guide is not None:
        conditions = condition.repeat_interleave(n, 0)

        def predict(x: Tensor, t: float) -> Tensor:
            def rows(x: Tensor, condition: Tensor) -> Tensor:
                return in_tiles(lambda x, c: network(x, t, c), tile, (x, condition))

            return on_finite_rows(rows, x.flatten(0, 1), conditions).view_as(x)

        return integrate(predict, noise, guide, prefix)

    def path(noise: Tensor, row: Tensor, prefix: Tensor | None) -> Tensor:
        own = condition[row]  # repeated a tile at a time, and so never out of cache
        return integrate(lambda x, t: network(x[:, 0], t, own)[:, None], noise, None, prefix)

    row = torch.arange(len(condition), device=noise.device).repeat_interleave(n)
    prefix = None if prefix is None else prefix.repeat_interleave(n, 0)
    return in_tiles(path, tile, (noise.flatten(0, 1)[:, None], row, prefix)).view_as(noise)


def check_horizon(spec: Spec) -> None:
    if spec.horizon < 1:
        raise ValueError("spec.horizon: expected at least 1 step, got 0; decide with spec.choose(horizon=...)")


def check_noise(noise: Tensor, batch: int, n: int, spec: Spec) -> None:
    expected = (batch, n, spec.horizon, spec.action_dim)
    if tuple(noise.shape) != expected:
        raise ValueError(f"noise: expected [B, n, H, A] = {list(expected)}, got {list(noise.shape)}")


def clip(chunks: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Inside the limits; what is not finite becomes NaN instead of a limit, so that nobody mistakes it for a plan."""
    return torch.where(chunks.isfinite(), chunks.clamp(low, high), torch.nan)


def full_lengths(chunks: Tensor) -> Tensor:
    """int64[B, N], all H."""
    return torch.full(chunks.shape[:2], chunks.shape[2], dtype=torch.int64, device=chunks.device)


def in_spec_units(guide: Guide | None, normalizer: Normalizer) -> Guide | None:
    """The guide as the sampler sees it: x_hat goes out in spec units, its gradient comes back by the chain rule."""
    if guide is None:
        return None

    def model_guide(x_hat: Tensor, t: float) -> Steering:
        steering = guide(normalizer.unnormalize(x_hat), t)
        if steering.gradient is None:
            return steering
        scale = torch.as_tensor(normalizer.scale, device=x_hat.device)  # d chunk / d x
        return Steering(steering.gradient * scale, steering.keep, steering.resample)

    return model_guide


def in_tiles(function: Callable[..., Tensor], tile: int, rows: Sequence[Tensor | None]) -> Tensor:
    """function over at most `tile` rows at a time: a tile stays in cache through all layers and all sampler steps."""
    total = len(rows[0])
    if total <= tile:
        return function(*rows)
    pieces = [[None if r is None else r[i : i + tile] for r in rows] for i in range(0, total, tile)]
    return torch.cat([function(*piece) for piece in pieces])


def on_finite_rows(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, condition: Tensor) -> Tensor:
    """function over the rows still alive; pruned (NaN) rows cost nothing and stay NaN."""
    alive = x.flatten(1).isfinite().all(1)
    if alive.all():
        return function(x, condition)
    out = torch.full_like(x, torch.nan)
    if alive.any():
        out[alive] = function(x[alive], condition[alive])
    return out
