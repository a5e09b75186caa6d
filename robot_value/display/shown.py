"""What is shown of one robot's decision: a copy, so that the loop may go on with its own arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..types import Decision, Observation, Outcome, Spec


@dataclass(frozen=True, eq=False)
class Shown:
    robot: int  # row of the batch
    episode: int  # key of the episode's randomness: the seed in simulation, a counter on an arm
    step: int  # control step of the observation that the decision was made from
    time: float  # s since the display began; episodes follow each other
    images: dict[str, np.ndarray]  # camera -> uint8[h, w, 3], the newest frame
    state: np.ndarray  # float32[S], the newest, spec units
    candidates: np.ndarray  # float32[N, H, A], spec units; N may be 0
    value: np.ndarray  # float32[N], the critic's score; NaN where not scored
    spread: np.ndarray  # float32[N], the critic's uncertainty; NaN where not scored
    chunk: np.ndarray  # float32[H, A], what was chosen
    index: int  # of the candidate it is; -1 where it is a new one
    start_step: int  # control step at which chunk[0] applies
    execute: int  # steps of it to execute
    reason: str
    executed: np.ndarray  # float32[k, A], what the robot did from `step` on until the next decision was due

    @property
    def best(self) -> float:
        """The highest score of all candidates; NaN where none was scored."""
        scored = self.value[np.isfinite(self.value)]
        return float(scored.max()) if len(scored) else float("nan")

    @property
    def plain(self) -> float:
        """Candidate 0's score: what the policy alone would have done."""
        return float(self.value[0]) if len(self.value) else float("nan")

    @property
    def chosen(self) -> float:
        """The chosen candidate's score; NaN for a new chunk."""
        return float(self.value[self.index]) if 0 <= self.index < len(self.value) else float("nan")

    @property
    def headroom(self) -> float:
        """How much better the best candidate looks than the plain policy's."""
        return self.best - self.plain

    @property
    def text(self) -> str:
        which = f"candidate {self.index}" if self.index >= 0 else "a new chunk"
        return f"{self.reason}: {which} of {len(self.candidates)}, {self.execute} steps from {self.start_step} on"


class Sink(Protocol):
    """Where it is shown. Both are called in the display's thread, and may fail or block without harm to the loop."""

    def write(self, shown: Shown) -> None: ...

    def close(self) -> None: ...


def cut(observation: Observation, decision: Decision, outcome: Outcome, row: int, time: float) -> Shown:
    """One robot's part, copied: a robot may fill the same arrays again."""
    return Shown(
        robot=row,
        episode=int(observation.episode[row]),
        step=int(observation.step[row]),
        time=time,
        images={name: frames[row, -1].copy() for name, frames in observation.images.items()},
        state=observation.state[row, -1].copy(),
        candidates=decision.candidates[row].copy(),
        value=decision.value[row].copy(),
        spread=decision.spread[row].copy(),
        chunk=decision.chunk[row].copy(),
        index=int(decision.index[row]),
        start_step=int(decision.start_step[row]),
        execute=int(decision.execute[row]),
        reason=decision.reason[row],
        executed=outcome.executed[row][outcome.executed_valid[row]],
    )


def action_names(spec: Spec) -> list[str]:
    """One per action dim: "arm[0]", "arm[1]", "gripper[0]"."""
    return [f"{part.name}[{d}]" for part in spec.parts for d in range(part.stop - part.start)]
