"""What sampling chunk policies share: tiles of rows, limits, and a guide that speaks the Spec's units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..flow import Guide
from ..normalize import Normalizer
from ..types import Spec, Steering

Network = Callable[[Tensor, float, Tensor], Tensor]  # (x [B n, H, A], t, condition [B, C] shared by n) -> as x
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
        return _step_by_step(network, integrate, noise, condition, prefix, guide, tile)

    def robots(noise: Tensor, condition: Tensor, prefix: Tensor | None) -> Tensor:
        def shared(x: Tensor, t: float) -> Tensor:
            return network(x.flatten(0, 1), t, condition).view_as(x)

        return in_tiles(lambda noise: integrate(shared, noise, None, prefix), tile, (noise,), dim=1)

    return in_tiles(robots, max(1, tile // n), (noise, condition, prefix))


def check_horizon(spec: Spec) -> None:
    if spec.horizon < 1:
        raise ValueError("spec.horizon: expected at least 1 step, got 0; decide with spec.choose(horizon=...)")


def check_noise(noise: Tensor, batch: int, n: int, spec: Spec, name: str = "noise") -> None:
    expected = (batch, n, spec.horizon, spec.action_dim)
    if tuple(noise.shape) != expected:
        raise ValueError(f"{name}: expected [B, n, H, A] = {list(expected)}, got {list(noise.shape)}")


def check_times(start: Tensor) -> Tensor:
    if not ((start >= 0) & (start <= 1)).all():
        raise ValueError(f"start: expected flow times from 0 (noise) to 1 (the chunk itself), got {start.tolist()}")
    return start


def clip(chunks: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Inside the limits; what is not finite becomes NaN instead of a limit, so that nobody mistakes it for a plan."""
    return torch.where(chunks.isfinite(), chunks.clamp(low, high), torch.nan)


def full_lengths(chunks: Tensor) -> Tensor:
    """int64[B, N], all H."""
    return torch.full(chunks.shape[:2], chunks.shape[2], dtype=torch.int64, device=chunks.device)


def in_spec_units(guide: Guide | None, normalizer: Normalizer) -> Guide | None:
    """The guide as the sampler sees it: x_hat goes out in spec units, and what comes back is turned into its own.

    With chunk = scale * x + offset a gradient is multiplied by the scale (chain rule), a displacement divided by it.
    """
    if guide is None:
        return None

    def model_guide(x_hat: Tensor, t: float) -> Steering:
        steering = guide(normalizer.unnormalize(x_hat), t)
        scale = torch.as_tensor(normalizer.scale, device=x_hat.device)  # d chunk / d x
        gradient = None if steering.gradient is None else steering.gradient * scale
        displacement = None if steering.displacement is None else steering.displacement / scale
        return replace(steering, gradient=gradient, displacement=displacement)

    return model_guide


def in_tiles(function: Callable[..., Tensor], tile: int, rows: Sequence[Tensor | None], dim: int = 0) -> Tensor:
    """function over at most `tile` rows at a time: a tile stays in cache through all layers and all sampler steps."""
    total = rows[0].shape[dim]
    if total <= tile:
        return function(*rows)
    starts = range(0, total, tile)
    pieces = [[None if r is None else r.narrow(dim, i, min(tile, total - i)) for r in rows] for i in starts]
    return torch.cat([function(*piece) for piece in pieces], dim)


def _step_by_step(
    network: Network,
    integrate: Integrate,
    noise: Tensor,
    condition: Tensor,
    prefix: Tensor | None,
    guide: Guide,
    tile: int,
) -> Tensor:
    """Pruned candidates (NaN) cost nothing; who is alive is asked again only after some were dropped or resampled."""
    alive, own, changed = None, condition, False  # bool[B, N], None: all; a condition per robot or living candidate

    def watched(x_hat: Tensor, t: float) -> Steering:
        nonlocal changed
        steering = guide(x_hat, t)
        changed = changed or steering.keep is not None or steering.resample is not None
        return steering

    def predict(x: Tensor, t: float) -> Tensor:
        nonlocal alive, own, changed
        if changed:
            alive, own, changed = *living(x, condition), False
        if alive is None:
            return network_in_tiles(x, t, own)
        if not len(own):
            return torch.full_like(x, torch.nan)
        out = network_in_tiles(x[alive].view(len(own), -1, *x.shape[2:]), t, own).flatten(0, 1)
        return torch.full_like(x, torch.nan).index_put((alive,), out)

    def network_in_tiles(x: Tensor, t: float, own: Tensor) -> Tensor:
        def rows(x: Tensor, own: Tensor) -> Tensor:
            return network(x.flatten(0, 1), t, own).view_as(x)

        return in_tiles(rows, max(1, tile // x.shape[1]), (x, own))

    return integrate(predict, noise, watched, prefix)


def living(x: Tensor, condition: Tensor) -> tuple[Tensor | None, Tensor]:
    """Which of x [B, N, H, A] are finite, bool[B, N] or None for all, and their conditions.

    Where every robot has as many candidates left they share its condition [B, C]; else each has its own [rows, C].
    """
    alive = x.isfinite().all(3).all(2)
    counts = alive.sum(1)
    if alive.all():
        return None, condition
    even = bool((counts == counts[0]).all() & (counts[0] > 0))
    return alive, condition if even else condition.repeat_interleave(counts, 0)
