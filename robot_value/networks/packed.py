"""Faster products where no gradient is asked for, accepted only after a measurement.

    with packed(policy, "auto"):
        chunks, _ = policy.sample(context, n, noise)

Inside the block every EnsembleMLP, ChunkMLP, ChunkTransformer and ImageEncoder of the module computes from packed
weights (see packing.py); whatever lies on a GPU and whatever a gradient is asked for runs as always. No precision is
set blindly: each is probed against float64 on the network at hand, and "auto" takes the fastest that passed. Which one
wins depends on the CPU: bfloat16 was twice as fast as float32 on one (Zen 5), half as fast on another (Xeon, no AMX).
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

from .chunk_head import ChunkTransformer
from .ensemble import EnsembleMLP
from .images import ImageEncoder
from .packing import ROWS, Part, pack

PRECISIONS = ("off", "auto", "float32", "bfloat16")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03}  # largest error against float64, over the largest output
WORTHWHILE = 1.05  # "auto": clear of noise; name a precision where runs must repeat to the bit
REPEATS = 10  # calls per precision in the race of "auto": 0.2 s in all for a perceptron, 5 s for a 40M transformer
PIXELS = 128  # height and width of a probe's images

_choices: dict[tuple, str] = {}  # what was asked, of which sizes, with how many threads -> the choice


@contextmanager
def packed(module: Any, precision: str = "auto") -> Iterator[None]:
    """No gradients inside. A part packs its weights when first called in the block: do not train it there."""
    with torch.no_grad(), Packed(module, precision):
        yield


class Packed:
    """`packed` for weights that stay as they are: packed once, at the first call, for all `with` blocks to come.

    A robot's steering keeps one per network. Where a gradient is asked for inside, the plain network answers.
    """

    def __init__(self, module: Any, precision: str = "auto") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        parts = packable(module) if precision != "off" else []
        self._forwards = [(part, _packs_when_called(part, precision)) for part in parts]
        self._taken: list[Part] = []

    def __enter__(self) -> None:
        for part, forward in self._forwards:
            if "forward" not in vars(part):  # else somebody has packed it already, and it is theirs
                part.forward = forward  # on the instance, before the class's own
                self._taken.append(part)

    def __exit__(self, *failure: object) -> None:
        while self._taken:
            del self._taken.pop().forward


def packable(module: Any) -> list[Part]:
    """The parts that can be sped up; those already packed are left to whoever packed them."""
    modules = getattr(module, "modules", None)  # of who stands for a policy in training, too
    if modules is None or not torch.backends.mkldnn.is_available():
        return []
    parts = [part for part in modules() if isinstance(part, Part)]
    return [p for p in parts if "forward" not in vars(p) and next(p.parameters()).device.type == "cpu"]


def _packs_when_called(part: Part, precision: str) -> Callable[..., Tensor]:
    plain = part.forward

    @functools.cache
    def fast() -> Callable[..., Tensor]:
        choice = choose(part, plain, precision)
        return plain if choice == "off" else pack(part, DTYPES[choice])

    return lambda *inputs: plain(*inputs) if torch.is_grad_enabled() else fast()(*inputs)


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
    if inputs[0].is_floating_point():
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
    if isinstance(part, ImageEncoder):
        return ((draw(2, PIXELS, PIXELS, 3) * 40 + 128).clamp(0, 255).byte(),)
    if isinstance(part, ChunkTransformer):
        rows = max(2, rows // part.shape[0])  # a product's rows are steps
    return draw(rows, *part.shape), torch.full((1,), 0.3), draw(rows, part.condition.out_features)


def _float64(part: Part) -> nn.Module:
    twin = copy.deepcopy(part)
    vars(twin).pop("forward", None)
    return twin.double()
