"""Random draws from a generator that is passed in, and initial weights that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Layers made inside get weights drawn from `seed`; the global generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def normal(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=_where(device, generator)).to(device)


def uniform(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    return torch.rand(tuple(shape), generator=generator, device=_where(device, generator)).to(device)


def integers(
    low: int, high: int, shape: Sequence[int], device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """int64 in [low, high)."""
    return torch.randint(low, high, tuple(shape), generator=generator, device=_where(device, generator)).to(device)


def _where(device: torch.device, generator: torch.Generator | None) -> torch.device:
    return device if generator is None else generator.device
