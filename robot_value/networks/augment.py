"""Random-shift augmentation of images (DrQ, Kostrikov et al. 2021): training only, one shift per row and camera."""

from __future__ import annotations

import torch
from torch import Tensor

from .seeding import integers


def random_shift(images: Tensor, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """uint8[B, O, h, w, 3] moved by up to `pixels` each way, edges repeated; all O frames of a row move together."""
    if pixels == 0:
        return images
    rows, _, height, width, _ = images.shape
    shift = integers(-pixels, pixels + 1, (2, rows, 1), images.device, generator, dim=1)
    y = (torch.arange(height, device=images.device) + shift[0]).clamp_(0, height - 1)  # int64[B, h]
    x = (torch.arange(width, device=images.device) + shift[1]).clamp_(0, width - 1)  # int64[B, w]
    row = torch.arange(rows, device=images.device)[:, None, None]
    # [B, h, w, O, 3] by advanced indexing, then O back to its place
    return images.movedim(1, 3)[row, y[:, :, None], x[:, None, :]].movedim(3, 1)
