"""Candidates of another policy: an edit policy (EXPO), a noise policy (DSRL), a one-step actor (FQL), or any other.

The actor sees the observation for itself, encoded once per decision. The other candidates are samples of the policy
that is steered, and so is candidate 0; a guide leads only those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ...protocols import ChunkPolicy
from ..proposal import Request
from ._slots import beside_samples, open_slots


@dataclass(frozen=True)
class Config:
    checkpoint: str = ""  # folder of the other policy
    share: float = 0.5  # of the candidates, in turn with the samples; 1 is all but the plain one

    def build(self) -> Actor:
        from ...training import load_policy

        if not self.checkpoint:
            raise ValueError("proposer actor: expected checkpoint=FOLDER of a policy, got none")
        return Actor(load_policy(self.checkpoint), self.share)


class Actor:
    uses_critic, anytime = False, False

    def __init__(self, policy: ChunkPolicy, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"proposer actor: expected 0 < share <= 1, got {share}")
        self.policy, self.share = policy, share

    @property
    def version(self) -> str:
        return f"actor {getattr(self.policy, 'version', type(self.policy).__name__)}, share {self.share:g}"

    def __call__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        request.policy.spec.check(self.policy.spec, "the actor")
        turn = [i for i in open_slots(request) if _count(i + 1, self.share) > _count(i, self.share)]
        if not turn:
            return request.sample(request.noise())
        if isinstance(self.policy, torch.nn.Module):
            self.policy.to(request.device)
        context = self.policy.encode(request.observation)
        asked = replace(request, policy=self.policy, context=context, guide=None, exact=False)
        chunks, lengths = asked.sample(request.noise(len(turn), "actor"))
        return beside_samples(request, turn, chunks, lengths)


def _count(n: int, share: float) -> int:
    """How many of the first n candidates are the actor's."""
    return math.ceil((n - 1) * share - 1e-9)
