"""What happened at control rate between two decisions, step by step, as the Outcome that the loop is given."""

from __future__ import annotations

import numpy as np

from ..types import Observation, Outcome, Spec

WON, LOST = "success", "failure"  # ends that the task itself has; all others only cut an episode off


class StepsTaken:
    """Of one robot."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.states: list[np.ndarray] = []
        self.images: list[dict[str, np.ndarray]] = []
        self.executed: list[np.ndarray] = []
        self.commanded: list[np.ndarray] = []
        self.source: list[int] = []

    def add(
        self, state: np.ndarray, images: dict[str, np.ndarray], executed: np.ndarray, commanded: np.ndarray, source: int
    ) -> None:
        self.states.append(state)
        self.images.append(images)
        self.executed.append(executed)
        self.commanded.append(commanded)
        self.source.append(source)

    def outcome(self, observation: Observation, why: str) -> Outcome:
        """`why` the episode is over; "" where it is not."""
        k, spec = len(self.states), self.spec
        rows = {"states": spec.state_dim, "executed": spec.action_dim, "commanded": spec.action_dim}
        arrays = {name: np.array(getattr(self, name), np.float32).reshape(1, k, size) for name, size in rows.items()}
        images = {
            camera.name: np.array([each[camera.name] for each in self.images], np.uint8).reshape(
                1, k, camera.height, camera.width, 3
            )
            for camera in spec.cameras
        }
        return Outcome(
            observation=observation,
            **arrays,
            images=images,
            executed_valid=np.ones((1, k), bool),
            rewards=np.zeros((1, k), np.float32),  # the recorder has them
            source=np.array(self.source, np.uint8).reshape(1, k),
            terminated=np.array([why in (WON, LOST)]),
            truncated=np.array([bool(why) and why not in (WON, LOST)]),
            success=np.array([why == WON]),
            unstable=np.zeros(1, bool),
        )
