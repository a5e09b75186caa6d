"""Faster products where no gradient is asked for, accepted only after a measurement.

    with packed(policy, "auto"):
        chunks, _ = policy.sample(context, n, noise)

Inside the block every EnsembleMLP and ChunkMLP of the module computes from packed weights (see packing.py);
transformers, image encoders and whatever lies on a GPU run as always. No precision is set blindly: each is probed
against float64 on the network at hand, and "auto" takes the fastest that passed. Which one wins depends on the CPU:
bfloat16 was twice as fast as float32 on one (Zen 5) and half as fast on another (Xeon without AMX).
"""

from __future__ import annotations

import copy
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .chunk_head import ChunkMLP
from .ensemble import EnsembleMLP
from .packing import ROWS, pack

PRECISIONS = ("off", "auto", "float32", "bfloat16")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03}  # largest error against float64, over the largest output
WORTHWHILE = 1.05  # "auto": clear of noise; name a precision where runs must repeat to the bit
REPEATS = 10  # calls per precision in the race of "auto", about 0.2 s in all

Part = EnsembleMLP | ChunkMLP
_choices: dict[tuple, str] = {}  # what was asked, of which sizes, with how many threads -> the choice


@contextmanager
def packed(module: Any, precision: str = "auto") -> Iterator[None]:
    """No gradients inside. A part packs its weights when first called in the block: do not train it there."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    parts = packable(module) if precision != "off" else []
    with torch.no_grad():
        try:
            for part in parts:
                part.forward = _packs_when_called(part, precision)  # on the instance, before the class's own
            yield
        finally:
            for part in parts:
                del part.forward


def packable(module: Any) -> list[Part]:
    """The parts that `packed` can speed up; those already packed are left to whoever packed them."""
    if not isinstance(module, nn.Module) or not torch.backends.mkldnn.is_available():
        return []
    parts = [part for part in module.modules() if isinstance(part, Part)]
    return [p for p in parts if "forward" not in vars(p) and next(p.parameters()).device.type == "cpu"]


def _packs_when_called(part: Part, precision: str) -> Callable[..., Tensor]:
    plain = part.forward

    @functools.cache
    def fast() -> Callable[..., Tensor]:
        choice = choose(part, plain, precision)
        return plain if choice == "off" else pack(part, DTYPES[choice])

    return lambda *inputs: fast()(*inputs)


def choose(part: Part, plain: Callable[..., Tensor], asked: str) -> str:
    """The precision to pack with, or "off"; measured once per process, sizes and threads."""
    key = (asked, type(part), *(p.shape for p in part.parameters()), torch.get_num_threads())
    if key not in _choices:
        _choices[key] = _fastest(part, plain) if asked == "auto" else _if_accurate(part, asked)
    return _choices[key]


def _if_accurate(part: Part, asked: str) -> str:
    if (got := error(part, asked)) <= TOLERANCE[asked]:
        return asked
    name = type(part).__name__
    warnings.warn(f"{asked}: expected an error up to {TOLERANCE[asked]}, got {got}; {name} runs unpacked", stacklevel=2)
    return "off"


def _fastest(part: Part, plain: Callable[..., Tensor]) -> str:
    accurate = [precision for precision in DTYPES if error(part, precision) <= TOLERANCE[precision]]
    seconds = race(part, plain, accurate)
    best = min(seconds, key=seconds.get)
    return best if seconds["off"] > WORTHWHILE * seconds[best] else "off"


@torch.no_grad()
def error(part: Part, precision: str) -> float:
    """Largest error over the largest output, against float64; infinite where a NaN row leaks or turns into numbers."""
    inputs = probe(part)
    inputs[0][0] = torch.nan
    got = pack(part, DTYPES[precision])(*inputs)
    exact = _float64(part)(*(x.double() for x in inputs))
    if not torch.equal(got.isfinite(), exact.isfinite()):
        return float("inf")
    return float((got - exact).nan_to_num().abs().max() / exact.nan_to_num().abs().max())


@torch.no_grad()
def race(part: Part, plain: Callable[..., Tensor], precisions: Sequence[str]) -> dict[str, float]:
    """Least seconds per call, unpacked ("off") and packed, taking turns."""
    inputs = probe(part)
    runs = {"off": plain} | {precision: pack(part, DTYPES[precision]) for precision in precisions}
    seconds = dict.fromkeys(runs, float("inf"))
    for name in [*runs] * REPEATS:
        start = time.perf_counter()
        runs[name](*inputs)
        seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def probe(part: Part, rows: int = ROWS) -> tuple[Tensor, ...]:
    """Random inputs of the part's forward, always the same."""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    if isinstance(part, EnsembleMLP):
        return (draw(rows, part.weights[0].shape[2]),)
    return draw(rows, *part.shape), torch.full((1,), 0.3), draw(rows, part.condition.out_features)


def _float64(part: Part) -> nn.Module:
    twin = copy.deepcopy(part)
    vars(twin).pop("forward", None)
    return twin.double()
