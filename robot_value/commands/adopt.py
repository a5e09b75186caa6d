"""`robot-value adopt`: a LeRobot checkpoint learns what its numbers mean, and is a policy like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import flags
from ..types import Spec

EXPORTED = "meta/robot_value_spec.json"  # where `data export` leaves the Spec in a LeRobot set


@dataclass(frozen=True)
class Adopt:
    """Write robot_value.json beside the weights: units, limits, period, and which of our inputs fills which one."""

    spec: str = ""  # whose numbers they are: an episode store, our checkpoint, a LeRobot set of ours, or a Spec as JSON
    # where names differ: their feature -> our state names in its order, or our camera, or '' for one that is not there,
    # e.g. '{observation.images.top: front, observation.state: joint_1 joint_2 gripper}'
    inputs: dict[str, str] = field(default_factory=dict)
    backbone: str = ""  # folder with tokenizer, VLM or CLIP in place of a name on the hub, from the checkpoint's folder


def run(argv: Sequence[str]) -> int:
    paths, rest = flags.positional(argv)
    if len(paths) != 1 and not {"-h", "--help"} & set(rest):
        raise flags.FlagError("expected robot-value adopt CHECKPOINT --spec=..., one folder that LeRobot saved")
    config = flags.parse(Adopt, rest, prog="robot-value adopt CHECKPOINT").values
    if not config.spec:
        raise flags.FlagError("--spec: expected a store, a checkpoint or a JSON file with the Spec, got nothing")
    from ..policies import lerobot_vla

    inputs = {theirs: tuple(ours.split()) for theirs, ours in config.inputs.items()}
    contract = lerobot_vla.adopt(paths[0], spec_of(Path(config.spec)), inputs, config.backbone)
    for theirs, ours in contract.inputs.items():
        print(f"{theirs} <- {', '.join(ours) or 'nothing'}")
    spec = contract.spec
    print(
        f"ready: --policy={paths[0]}; train its critic with "
        f"--windowing.horizon={spec.horizon} --windowing.n_obs_steps={spec.n_obs_steps}"
    )
    return 0


def spec_of(path: Path) -> Spec:
    """The Spec that a store, a checkpoint or run of ours, a LeRobot set of ours or a JSON file holds."""
    from .. import checkpoint
    from ..convert import spec_from
    from ..episodes.store import EpisodeStore

    for file in (path, path / EXPORTED):
        if file.is_file():
            return spec_from(str(file))
    saved = path if (path / checkpoint.MANIFEST).is_file() else checkpoint.newest(path)
    return EpisodeStore.open(path).spec if saved is None else checkpoint.load(saved).spec
