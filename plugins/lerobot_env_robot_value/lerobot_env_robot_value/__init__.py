"""robosuite and OGBench tasks for unmodified lerobot-eval and lerobot-train: `--env.type=robosuite --env.task=Lift`."""

from . import environments as environments  # registers the types
