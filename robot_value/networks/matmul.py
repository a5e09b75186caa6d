"""Faster float32 matrix products where this CPU has them, accepted only after a measurement.

On some AMD CPUs the default library takes a slow path; oneDNN's, switched on by torch's "bf16" matmul precision, was
twice as fast on one (Zen 5), equal on another (Zen 4), and still true float32. On CPUs with bf16 matrix units the same
switch really rounds to bf16, so it is probed against float64 first and never set blindly.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MODES = ("default", "onednn")
TOLERANCE = 1e-5  # largest relative error against float64 that still counts as float32
WORTHWHILE = 1.3  # clear of noise, so that one machine always gives the same answer and runs repeat to the bit
REPEATS = 100  # products per mode, about 0.1 s in all
_ROWS, _WIDTH = 256, 256  # a training step's typical product


@contextmanager
def matmul(mode: str) -> Iterator[None]:
    """float32 products inside go the way `mode` says ("default" or "onednn")."""
    if mode not in MODES:
        raise ValueError(f"matmul: expected one of {', '.join(MODES)}, got {mode!r}")
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16" if mode == "onednn" else before
    try:
        yield
    finally:
        backend.fp32_precision = before


@functools.lru_cache(maxsize=8)
def best_mode(threads: int) -> str:
    """The faster of the modes that keep float32's precision, measured once per process and thread count."""
    if not torch.backends.mkldnn.is_available():
        return "default"
    with matmul("onednn"):
        if relative_error() >= TOLERANCE:
            return "default"
    seconds = {}
    for mode in MODES * REPEATS:  # in turns, and the least counts, so that a busy moment does not favour either
        with matmul(mode):
            seconds[mode] = min(seconds.get(mode, float("inf")), _seconds())
    return "onednn" if seconds["default"] > WORTHWHILE * seconds["onednn"] else "default"


def relative_error() -> float:
    """Largest error of a product over the largest entry, against float64, in the mode that is switched on."""
    x, w = _operands()
    exact = x.double() @ w.double().T
    return float((torch.nn.functional.linear(x, w) - exact).abs().max() / exact.abs().max())


def _seconds() -> float:
    x, w = _operands()
    start = time.perf_counter()
    torch.nn.functional.linear(x, w)
    return time.perf_counter() - start


@functools.lru_cache(maxsize=1)
def _operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_ROWS, _WIDTH, generator=generator), torch.randn(_WIDTH, _WIDTH, generator=generator)
