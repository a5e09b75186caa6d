"""Random draws from a generator that is passed in, and initial weights that depend on a seed alone.

Draws are for the rows of a batch: of several ranks (ranks.py) each draws for all of them and keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from ..ranks import here, own


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Layers made inside get weights drawn from `seed`; the global generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def normal(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    return _rows(torch.randn, shape, device, generator)


def uniform(shape: Sequence[int], device: torch.device, generator: torch.Generator | None, dim: int = 0) -> Tensor:
    """In [0, 1); `dim` is where the batch's rows lie."""
    return _rows(torch.rand, shape, device, generator, dim)


def integers(
    low: int,
    high: int,
    shape: Sequence[int],
    device: torch.device,
    generator: torch.Generator | None,
    dim: int = 0,
) -> Tensor:
    """int64 in [low, high); `dim` is where the batch's rows lie."""
    return _rows(partial(torch.randint, low, high), shape, device, generator, dim)


def _rows(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    device: torch.device,
    generator: torch.Generator | None,
    dim: int = 0,
) -> Tensor:
    whole = list(shape)
    whole[dim] *= here().number
    return own(draw(tuple(whole), generator=generator, device=_where(device, generator)), dim).to(device)


def _where(device: torch.device, generator: torch.Generator | None) -> torch.device:
    return device if generator is None else generator.device
