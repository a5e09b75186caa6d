"""Several proposers at once, each with its share of the candidates: `--proposer.parts='[samples, tail]'`.

A part may bring options: `temperature:low=1.2:high=1.6`. The first part is asked first, so that candidate 0 is the
plain policy's as everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from ... import components
from ...flags import parse
from ...protocols import Proposer
from ..proposal import Request
from ..setups import describe


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = ("samples", "tail")  # proposers, each as name[:option=value...]
    shares: tuple[float, ...] = ()  # of the candidates, one per part, in any unit; empty: equal

    def build(self) -> Mixture:
        shares = self.shares or (1.0,) * len(self.parts)
        if not self.parts or len(shares) != len(self.parts) or min(shares) <= 0:
            raise ValueError(f"mixture: expected a share above 0 for each part {self.parts}, got {self.shares}")
        return Mixture([_build(part) for part in self.parts], shares)


class Mixture:
    anytime = False

    def __init__(self, parts: list[Proposer], shares: tuple[float, ...]) -> None:
        self.parts = parts
        self.ends = np.cumsum(shares) / sum(shares)  # float64[parts]
        self.uses_critic = any(part.uses_critic for part in parts)

    @property
    def version(self) -> str:
        shares = np.diff(self.ends, prepend=0.0)
        return "mixture of " + ", ".join(f"{s:.6g} {describe(p)}" for s, p in zip(shares, self.parts, strict=True))

    def __call__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        ends = [math.ceil(request.n * end - 1e-9) for end in self.ends]
        proposed = [
            part(replace(request, first=request.first + begin, n=end - begin))
            for part, begin, end in zip(self.parts, [0, *ends], ends, strict=False)
            if end > begin
        ]
        chunks, lengths = zip(*proposed, strict=True)
        return torch.cat(chunks, 1), torch.cat(lengths, 1)


def _build(part: str) -> Proposer:
    name, *options = part.split(":")
    config = components.load("proposers", name).Config
    chosen = parse(config, [f"--{option}" for option in options], prog=name).values
    return config(**vars(chosen)).build()
