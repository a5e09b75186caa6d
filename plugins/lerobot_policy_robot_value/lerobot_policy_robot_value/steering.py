"""Base checkpoint and critic of a configuration, put together as `robot-value evaluate` does."""

from __future__ import annotations

from robot_value.arms import MAIN
from robot_value.evaluate import Arm
from robot_value.policies import lerobot_vla
from robot_value.steering.steerer import Steerer
from robot_value.training import load_model

from .configuration_robot_value import RobotValueConfig


def make_steerer(config: RobotValueConfig) -> Steerer:
    """Raises ValueError where base, critic and settings do not belong together."""
    critics = {MAIN: load_model(config.critic_path, config.device)} if config.critic_path else {}
    spec = critics[MAIN].spec if critics else None  # says what numbers mean where the checkpoint was not adopted
    policy = lerobot_vla.load(config.base_path, config.device, spec)
    arm = Arm(
        name="lerobot",
        selector=config.selector or "softmax_average",
        options=config.selector_options,
        n=config.num_candidates,
        gate=config.gate,
        gate_options=config.gate_options,
        critic=MAIN if critics else None,
    )
    execute = config.execute or (critics[MAIN].scope if critics else policy.model.config.n_action_steps)
    return arm.steerer(policy, critics, execute, config.seed, config.device)
