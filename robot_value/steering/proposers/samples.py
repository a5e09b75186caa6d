"""N samples of the policy: every candidate from noise of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..proposal import Request


@dataclass(frozen=True)
class Config:
    def build(self) -> Samples:
        return Samples()


class Samples:
    uses_critic, anytime = False, True

    def __call__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        return request.sample(request.noise())
