"""Make one robosuite environment whose compiled model is the same in every process."""

from __future__ import annotations

import logging
from typing import Any

import mujoco
import numpy as np

# What robosuite prints at import and when it reads its own controller file; none of it is for our users.
_HARMLESS = (
    "No private macro file",
    "It is recommended to use a private macro",
    "To setup, run: python",
    "Could not import robosuite_models",
    "Could not load the mink-based",
    "Loading controller configuration from",
)
_MODEL_SEED = 0  # robosuite draws object sizes (Lift: the cube's, 2.0 to 2.2 cm) when it builds the model
_JOINT_POSITION = {
    "type": "JOINT_POSITION",
    "input_type": "absolute",
    "input_max": 1,
    "input_min": -1,
    "output_max": 0.05,
    "output_min": -0.05,
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "qpos_limits": None,
    "interpolation": None,
    "ramp_ratio": 0.2,
    "gripper": {"type": "GRIP"},
}


def _worth_printing(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_HARMLESS)


logging.getLogger("robosuite_logs").addFilter(_worth_printing)
import robosuite  # noqa: E402  the filter must stand before robosuite's import prints

VERSIONS = {"robosuite": robosuite.__version__, "mujoco": mujoco.__version__}


def make_env(task: str, control: str, control_freq: float) -> Any:
    """A headless Panda environment without observables' rendering; it is reset in place, never rebuilt."""
    config = robosuite.load_composite_controller_config(robot="Panda")
    if control == "joint_absolute":
        config["body_parts"]["right"] = dict(_JOINT_POSITION)
    with seeded_globals(_MODEL_SEED):
        env = robosuite.make(
            task,
            robots="Panda",
            controller_configs=config,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            use_object_obs=True,
            control_freq=control_freq,
            ignore_done=True,
            hard_reset=False,
        )
        env.reset()
    return env


class seeded_globals:
    """numpy's global generator seeded for a block and put back after it: robosuite draws its placements from it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._before = np.random.get_state()
        np.random.seed(np.random.SeedSequence(self._seed % 2**64).generate_state(8))

    def __exit__(self, *_: object) -> None:
        np.random.set_state(self._before)
