"""robosuite tasks with a Panda arm: Lift, PickPlaceCan, Stack, NutAssemblySquare, Door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robot_value.components import unknown

from .expert_quality import Quality
from .fleet import Fleet

if TYPE_CHECKING:
    from .robosuite_simulator import RobosuiteSimulator

# task -> (text, control steps until an episode is truncated at 20 Hz)
TASKS = {
    "Lift": ("lift the cube", 80),
    "PickPlaceCan": ("put the can into its bin", 250),
    "Stack": ("stack the red cube on the green cube", 200),
    "NutAssemblySquare": ("put the square nut on the square peg", 300),
    "Door": ("open the door", 200),
}
CONTROLS = ("osc_delta", "joint_absolute")


@dataclass(frozen=True)
class Config:
    task: str = "Lift"  # Lift, PickPlaceCan, Stack, NutAssemblySquare or Door
    # osc_delta: end effector deltas in [-1, 1] (robosuite's OSC_POSE, 1 = 5 cm or 0.5 rad); joint_absolute: rad
    control: str = "osc_delta"
    state: bool = True  # the state holds the objects' poses; false: proprioception only, for training on images
    cameras: tuple[str, ...] = ()  # e.g. agentview, robot0_eye_in_hand; every camera costs 7-30 ms a step in software
    camera_size: int = 84  # pixels, height and width of every camera image (robomimic's default)
    render_samples: int = 0  # multisampling; robosuite's 4 doubles the time of software rendering. Changes the images.
    render_shadows: bool = False  # shadows and reflections, half of what is left. Changes the images.
    control_freq: int = 20  # control steps per simulated second (robosuite's default)
    max_steps: int = 0  # control steps until an episode is truncated; 0: the task's own number
    quality: Quality = Quality()  # what faults the scripted expert makes

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(unknown("robosuite task", self.task, list(TASKS)))
        if self.control not in CONTROLS:
            raise ValueError(unknown("control", self.control, list(CONTROLS)))
        if self.camera_size < 1 or self.max_steps < 0 or self.control_freq < 1:
            raise ValueError(
                "camera_size and control_freq must be at least 1 and max_steps at least 0, got "
                f"{self.camera_size}, {self.control_freq} and {self.max_steps}"
            )

    @property
    def text(self) -> str:
        """The task in words."""
        return TASKS[self.task][0]

    @property
    def steps(self) -> int:
        """Control steps until an episode is truncated."""
        return self.max_steps or TASKS[self.task][1]

    def simulator(self) -> RobosuiteSimulator:
        from .robosuite_simulator import RobosuiteSimulator  # imports MuJoCo and robosuite, which a parser need not

        return RobosuiteSimulator(self)

    def build(self, batch_size: int, workers: int = 0, n_obs_steps: int = 1, driver: str = "policy") -> Fleet:
        """`batch_size` robots in `workers` processes (0: in this one), see Fleet."""
        return Fleet(self, batch_size, workers, n_obs_steps, driver)
