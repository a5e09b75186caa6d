"""Randomness keyed by (seed, episode, step, stream), never by a shared stream, so a row's draw ignores all other rows.

Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a function of key and counter:
key = (seed, episode), counter = (block, 0, step, stream). Distinct keys or counters never share a block of numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_WORD = 2**64


def normal(
    seed: int,
    episode: np.ndarray | Sequence[int],  # int64[B]
    step: np.ndarray | Sequence[int],  # int64[B]
    shape: Sequence[int],
    stream: str = "noise",
) -> np.ndarray:
    """Standard normal float32[B, *shape].

    Row b depends on (seed, episode[b], step[b], stream) alone, and is drawn in order: with shape = (N, H, A) the first
    candidates are the same whatever N is.
    """
    rows = generators(seed, episode, step, stream)
    noise = np.empty((len(rows), *shape), np.float32)
    for row, generator in zip(noise, rows, strict=True):
        row[...] = generator.standard_normal(tuple(shape), np.float32)
    return noise


def generators(
    seed: int,
    episode: np.ndarray | Sequence[int],  # int64[B]
    step: np.ndarray | Sequence[int],  # int64[B]
    stream: str,
) -> list[np.random.Generator]:
    """B fresh generators, one per robot; streams of different names ("select", "noise", ...) are independent."""
    episode, step = np.asarray(episode), np.asarray(step)
    if episode.ndim != 1 or episode.shape != step.shape:
        raise ValueError(
            f"episode and step: expected two vectors of one length B, got {list(episode.shape)} and {list(step.shape)}"
        )
    seed_word, stream_word = _word("seed", seed), _stream(stream)
    return [
        np.random.Generator(
            np.random.Philox(
                key=np.array([seed_word, _word("episode", e)], np.uint64),
                counter=np.array([0, 0, _word("step", s), stream_word], np.uint64),
            )
        )
        for e, s in zip(episode.tolist(), step.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Draws:
    """`generators`, made when one is asked for: few selectors draw, and making them takes longer than choosing."""

    seed: int
    episode: np.ndarray  # int64[B]
    step: np.ndarray  # int64[B]
    stream: str

    def __len__(self) -> int:
        return len(self.episode)

    def __getitem__(self, row: int) -> np.random.Generator:
        return self._made[row]

    @cached_property
    def _made(self) -> list[np.random.Generator]:
        return generators(self.seed, self.episode, self.step, self.stream)


def _word(what: str, number: int) -> int:
    """Any int64 or uint64 as 64 bits; negative numbers take the upper half (two's complement)."""
    if not isinstance(number, int | np.integer) or not -(_WORD // 2) <= number < _WORD:
        raise ValueError(f"{what}: expected a whole number that fits 64 bits, got {number!r}")
    return int(number) % _WORD


def _stream(name: str) -> int:
    """A hash that is the same in every process (Python's hash() of a string is not)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
