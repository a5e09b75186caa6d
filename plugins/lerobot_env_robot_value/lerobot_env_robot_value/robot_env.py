"""One simulated robot of ours as a gym.Env: a step is a decision of one action, so that limits and endings are ours."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict

from robot_value.types import Decision, Observation


class RobotEnv(gym.Env):
    """Seeds mean the same start as in `robot-value evaluate`, bit for bit."""

    def __init__(self, config: Any) -> None:
        self._robot = config.build(batch_size=1)
        spec = self._robot.spec
        self.task, self.task_description = config.task, self._robot.tasks[0]
        self._max_episode_steps = self._robot.max_steps
        self.metadata, self.render_mode = {"render_modes": ["rgb_array"], "render_fps": round(1 / spec.dt)}, "rgb_array"
        pictures = {each.name: Box(0, 255, (each.height, each.width, 3), np.uint8) for each in spec.cameras}
        state = Box(-np.inf, np.inf, (spec.state_dim,), np.float32)
        self.observation_space = Dict({"agent_pos": state, "pixels": Dict(pictures)})
        self.action_space = Box(spec.low, spec.high)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._now = self._robot.reset([self.task_description], [seed])
        return self._seen(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """`action` [A] in the robot's units; what exceeds its limits is clipped to them."""
        outcome = self._robot.execute(single(np.asarray(action, np.float32), self._now))
        self._now = outcome.observation
        success = bool(outcome.success[0] & ~outcome.unstable[0])  # broken physics solve nothing
        end = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        return self._seen(), float(outcome.rewards.sum()), *end, {"is_success": success}

    def render(self) -> np.ndarray:
        """uint8[h, w, 3] of the first camera."""
        return next(iter(self._seen()["pixels"].values()))

    def close(self) -> None:
        self._robot.close()

    def _seen(self) -> dict[str, Any]:
        pixels = {name: image[0, -1] for name, image in self._now.images.items()}
        return {"agent_pos": self._now.state[0, -1], "pixels": pixels}


def single(action: np.ndarray, now: Observation) -> Decision:
    """The decision to do `action` float32[A] now."""
    none = np.zeros((1, 0), np.float32)
    return Decision(
        chunk=action[None, None],
        execute=np.ones(1, np.int64),
        start_step=now.step + now.committed,
        reason=("lerobot",),
        index=np.full(1, -1),
        candidates=np.zeros((1, 0, 1, len(action)), np.float32),
        value=none,
        spread=none,
    )
