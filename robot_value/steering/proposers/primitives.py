"""Two motions that need no policy: stop, and retract along the way the robot came. The other candidates are samples.

    stop     relative parts and velocities do not move; absolute parts repeat the last action that was told
    retract  relative parts and velocities undo the last actions, newest first; absolute parts go back through the
             targets before the last; where nothing more is known, it stops there
    grippers keep the last action that was told (relative ones do not move), in both

They begin after the committed actions. What was told comes from the last decision and from `pending`; where an answer
needs what nobody told yet (an episode's first decision), it is refused (NaN).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...types import ActionPart, Spec
from ..proposal import Request
from ._slots import beside_samples, open_slots, with_committed

IDENTITY = {"none": (), "axis_angle": (0.0,) * 3, "quaternion": (0.0, 0.0, 0.0, 1.0), "6d": (1.0, 0, 0, 0, 1.0, 0)}


@dataclass(frozen=True)
class Config:
    which: tuple[str, ...] = ("stop", "retract")  # motions, one candidate each, in this order

    def build(self) -> Primitives:
        if not self.which or not set(self.which) <= MOTIONS.keys():
            raise ValueError(f"primitives: expected which among {', '.join(MOTIONS)}, got {self.which}")
        return Primitives(self.which)


@dataclass(frozen=True)
class Primitives:
    which: tuple[str, ...]
    uses_critic: ClassVar[bool] = False
    anytime: ClassVar[bool] = False

    def __call__(self, request: Request) -> tuple[Tensor, Tensor]:
        slots = open_slots(request)[: len(self.which)]
        back = told(request).flip(1)
        moves = [_by_part(MOTIONS[name], back, request.policy.spec) for name in self.which[: len(slots)]]
        if not moves:
            return request.sample(request.noise())
        chunks = torch.stack([_after_committed(request, move) for move in moves], 1)
        lengths = torch.full(chunks.shape[:2], chunks.shape[2], dtype=torch.int64, device=chunks.device)
        return beside_samples(request, slots, chunks, lengths)


def told(request: Request) -> Tensor:
    """float32[B, H, A]: the last actions before a new decision takes effect, newest last; NaN where not known."""
    spec, committed = request.policy.spec, torch.from_numpy(request.observation.committed).to(request.device)
    past = request.past
    if past is None:
        past = torch.full((request.batch, spec.horizon, spec.action_dim), torch.nan, device=request.device)
    actions = torch.cat([past, torch.from_numpy(request.observation.pending).to(past)], 1)
    step = committed[:, None] + torch.arange(spec.horizon, device=past.device)  # int64[B, H]
    return actions.gather(1, step[:, :, None].expand(-1, -1, spec.action_dim))


# back float32[B, H, D], newest first, NaN where not known -> float32[B, H, D]
Motion = Callable[[ActionPart, Tensor], Tensor]


def _by_part(motion: Motion, back: Tensor, spec: Spec) -> Tensor:
    back = torch.where(back.isfinite().all(2, keepdim=True).int().cumprod(1).bool(), back, torch.nan)
    return torch.cat([motion(part, back[:, :, part.slice]) for part in spec.parts], 2)


def stop(part: ActionPart, back: Tensor) -> Tensor:
    if not _moves(part):
        return back[:, :1].expand_as(back)
    still = torch.zeros(part.stop - part.start).to(back)
    identity = IDENTITY[part.rotation]
    still[len(still) - len(identity) :] = torch.tensor(identity).to(back)
    return still.expand_as(back)


def retract(part: ActionPart, back: Tensor) -> Tensor:
    if part.kind == "gripper":
        return stop(part, back)
    known = back.isfinite().all(2).sum(1, keepdim=True)  # int64[B, 1]
    if not _moves(part):
        step = torch.arange(1, back.shape[1] + 1, device=back.device).minimum((known - 1).clamp_min(0))
        return back.gather(1, step[:, :, None].expand_as(back))
    if part.reference == "chunk_start" or part.rotation in ("quaternion", "6d") or _turns_the_tool(part):
        raise ValueError(
            f"retract: expected parts whose steps are undone by their negative, got {part.name!r} with reference "
            f"{part.reference!r}, rotation {part.rotation!r} in frame {part.frame!r}; use which=[stop]"
        )
    return torch.where(known[:, :, None] > 0, -back.nan_to_num(0.0), torch.nan)


MOTIONS: dict[str, Motion] = {"stop": stop, "retract": retract}


def _moves(part: ActionPart) -> bool:
    """Whether zero means standing still: deltas and velocities, but no targets."""
    return part.reference != "absolute" or part.unit.endswith("/s")


def _turns_the_tool(part: ActionPart) -> bool:
    """A step along the tool's axes is turned by the rotation that comes with it (actions.py)."""
    return part.kind == "pose" and part.rotation != "none" and part.frame != "base"


def _after_committed(request: Request, move: Tensor) -> Tensor:
    """move float32[B, H, A] begun when a decision takes effect, as a chunk that begins with the observation."""
    committed = torch.from_numpy(request.observation.committed).to(move.device)
    step = (torch.arange(move.shape[1], device=move.device) - committed[:, None]).clamp_min(0)
    return with_committed(request, move.gather(1, step[:, :, None].expand_as(move))[:, None])[:, 0]
