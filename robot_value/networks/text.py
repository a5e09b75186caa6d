"""Task texts as vectors without downloaded weights: hashed character n-grams, a fixed random projection, a learned map.

Texts that share words share n-grams and so lie close; the learned map decides what matters. Deterministic everywhere:
the projection's row of an n-gram is drawn from a generator keyed by the n-gram's CRC-32.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

NGRAMS = (3, 4, 5)  # characters


class TextEncoder(nn.Module):
    def __init__(self, outputs: int, fixed: int = 256) -> None:
        super().__init__()
        self.fixed, self.outputs = fixed, outputs
        self.linear = nn.Linear(fixed, outputs)

    def forward(self, tasks: Sequence[str], index: Tensor) -> Tensor:
        """tasks: the batch's distinct texts; index int64[B] into them -> [B, outputs]."""
        table = torch.as_tensor(text_features(tuple(tasks), self.fixed), device=index.device)
        return self.linear(table)[index]


@functools.lru_cache(maxsize=64)
def text_features(tasks: tuple[str, ...], dim: int) -> np.ndarray:
    """float32[len(tasks), dim], rows of unit length (zero for an empty text)."""
    return np.stack([_text_vector(task, dim) for task in tasks]) if tasks else np.zeros((0, dim), np.float32)


@functools.lru_cache(maxsize=4096)
def _text_vector(text: str, dim: int) -> np.ndarray:
    total = np.zeros(dim, np.float32)
    if not text.strip():
        return total
    padded = f"  {' '.join(text.lower().split())}  "
    for size in NGRAMS:
        for start in range(len(padded) - size + 1):
            key = zlib.crc32(padded[start : start + size].encode())
            total += np.random.Generator(np.random.Philox(key)).standard_normal(dim, np.float32)
    return total / np.linalg.norm(total)
