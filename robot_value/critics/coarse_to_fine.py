"""A box of actions that is zoomed into: every number in [-1, 1] is found by choosing one of B bins, L times.

    c_0 = 0     c_{l+1} = B c_l + bin_l     centre_l(c) = (2 c + 1) / B^l - 1

c_l is the number of a cell among the B^l of level l. Seo et al. 2024 (CQN, arXiv 2407.07787), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..normalize import Normalizer

if TYPE_CHECKING:
    from .chunk_critic import ChunkCritic


@dataclass(frozen=True)
class Grid:
    levels: int  # L, times a bin is chosen
    bins: int  # B, per level; B^L cells in all

    def __post_init__(self) -> None:
        if self.levels < 1 or self.bins < 2:
            raise ValueError(f"grid: expected at least 1 level of at least 2 bins, got {self.levels} and {self.bins}")

    def locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [rows, ...] -> bins int64[rows, L, ...] and the centres before each choice, float32[rows, L, ...].

        What lies outside of [-1, 1] falls into the outermost cell.
        """
        cells = self.bins**self.levels
        finest = (((x.nan_to_num() + 1) / 2 * cells).floor().clamp(0, cells - 1)).long()
        path = [finest // self.bins ** (self.levels - level) for level in range(self.levels + 1)]
        centres = [self.centre(path[level], level) for level in range(self.levels)]
        return torch.stack(path[1:], 1) % self.bins, torch.stack(centres, 1)

    def centre(self, cell: Tensor, level: int) -> Tensor:
        return (2 * cell + 1) / self.bins**level - 1

    def zoom(self, cell: Tensor, index: Tensor) -> Tensor:
        return self.bins * cell + index


# P(bin) = softmax(values / temperature); the bin is the one whose slice of [0, 1) holds u, and where u lies within
# that slice decides the next choice: one u is enough for all levels, and a larger u never gives a lower bin
def pick(values: Tensor, temperature: float = 0.0, u: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """values [..., B], u float64[...] in [0, 1) -> (int64[...], u of the next choice); temperature 0: the best bin."""
    if not temperature or u is None:
        return values.argmax(-1), u
    share = (values.double() / temperature).softmax(-1)
    upper = share.cumsum(-1)
    index = (u[..., None] >= upper[..., :-1]).sum(-1)
    size, end = (each.gather(-1, index[..., None])[..., 0] for each in (share, upper))
    return index, ((u - end + size) / size).clamp(0, 1 - 1e-12)


# L = mean over bins b other than the demonstrated one of max(0, margin + Q(b) - Q(demonstrated))
def margin_loss(values: Tensor, index: Tensor, margin: float) -> Tensor:
    """values [rows, ..., B], demonstrated index [rows, ...] -> [rows]."""
    chosen = values.gather(-1, index[..., None])
    others = torch.ones_like(values, dtype=torch.bool).scatter(-1, index[..., None], False)
    lacking = torch.where(others, (margin + values - chosen).clamp_min(0), 0)
    return lacking.flatten(1).sum(1) / others[0].sum()


def demonstrated(success: Tensor, weight: Tensor) -> Tensor:
    """success float32[B] of the episode -> weights [B] of the rows worth imitating; unknown outcomes (NaN) are not."""
    return (success == 1) * weight


def box(critic: ChunkCritic) -> Normalizer:
    """Spec units <-> [-1, 1], the range of the recorded actions: bins are not wasted where nobody ever went."""
    return Normalizer.of(critic.statistics, "action", "min_max")


def in_box(critic: ChunkCritic, chunk: Tensor) -> Tensor:
    """A chunk [rows, k, A] as pages see it (mean_std) -> in the box."""
    return box(critic).normalize(critic.actions.unnormalize(chunk))


def nan_where_not_finite(values: Tensor, chunk: Tensor) -> Tensor:
    """values [E, rows], chunk [rows, k, A]: a chunk that is no plan has no cell, and so no value."""
    return torch.where(chunk.flatten(1).isfinite().all(1), values, torch.nan)
