"""Nothing but names and devices: numbers are normalised once, inside, by the base checkpoint's own processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from .configuration_robot_value import RobotValueConfig


def make_robot_value_pre_post_processors(config: RobotValueConfig, dataset_stats: Any = None) -> tuple[Any, Any]:
    steps = [RenameObservationsProcessorStep(rename_map={}), AddBatchDimensionProcessorStep()]
    before = PolicyProcessorPipeline(
        steps=[*steps, DeviceProcessorStep(device=config.device)], name=POLICY_PREPROCESSOR_DEFAULT_NAME
    )
    after = PolicyProcessorPipeline(
        steps=[DeviceProcessorStep(device="cpu")],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after


def save(config: RobotValueConfig, folder: Path) -> None:
    """All that `--policy.path` needs: there are no weights."""
    config._save_pretrained(folder)
    for pipeline in make_robot_value_pre_post_processors(config):
        pipeline.save_pretrained(folder)
