"""`python plugins/check_commands.py`: LeRobot's own commands with our packages, from pip to a steered lerobot-eval.

One pip command, data export, lerobot-train, lerobot-eval of the base, unsteered and steered, and our own loop on the
same seeds, with a tiny policy and a random critic on 64-pixel Lift. Exit 0 where unsteered is the base to the bit and
steered decides what our loop decides. A minute of one CPU; nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [f"lerobot_{kind}_robot_value" for kind in ("env", "policy", "robot")]
PIXELS, STEPS, SCOPE, N = 64, 6, 4, 3
BASE = "run/checkpoints/last/pretrained_model"
# Runs entry points as their scripts do, in one process, because importing LeRobot takes longer than they do; "python"
# runs a text of ours between them.
COMMANDS = """
import json, sys
from importlib.metadata import entry_points
for name, *arguments in json.load(sys.stdin):
    sys.argv = [name, *arguments]
    if name == "python":
        exec(arguments[0], {})
    else:
        (command,) = entry_points(group="console_scripts", name=name)
        command.load()()
"""
PREPARE = f"""
import numpy as np
from lerobot_env_robot_value.environments import spec_of
from robot_value.datasets import lerobot_exporter
from robot_value.episodes import EpisodeStore
from robot_value.sim.robosuite_robot import Config
from robot_value.types import Episode
from pathlib import Path
spec, rng = spec_of(Config(cameras=("agentview",), camera_size={PIXELS}, max_steps={STEPS})), np.random.default_rng(0)
with EpisodeStore.create(Path("store"), spec) as store:
    for _ in range(2):
        pictures = rng.integers(0, 256, (13, {PIXELS}, {PIXELS}, 3), np.uint8)
        actions = rng.uniform(-1, 1, (12, spec.action_dim)).astype(np.float32)
        states = rng.normal(size=(13, spec.state_dim)).astype(np.float32)
        nothing = np.zeros(12, np.float32)
        store.append(Episode(spec, states, {{"agentview": pictures}}, actions, nothing, True, False, True, "lift"))
    lerobot_exporter.Config().build().export(store, Path("set"), progress=False)
"""
CRITIC = f"""
from pathlib import Path
import draccus, numpy as np
from robot_value import checkpoint, components
from robot_value.episodes import EpisodeStore
from robot_value.normalize import Statistics
spec = EpisodeStore.open(Path("store")).spec.choose(horizon={SCOPE}, n_obs_steps=2)
one = {{"state": np.ones(spec.state_dim, np.float32), "action": np.ones(spec.action_dim, np.float32)}}
scale = {{key: Statistics(0 * x, x, -x, x, 9) for key, x in one.items()}}
config = components.load("critics", "iql").Config(scope={SCOPE})
about = {{"config": draccus.encode(config), "spec": spec, "statistics": scale, "extra": {{"tasks": [""]}}, "step": 0}}
checkpoint.save(Path("critic"), kind="critics", name="iql", tensors=config.build(spec, scale).state_dict(), **about)
"""
WRAP = f"""
import sys
from lerobot_policy_robot_value.__main__ import main
sys.argv = ["lerobot_policy_robot_value", "{BASE}", "wrapped", "--critic", "critic"]
main()
"""
OURS = f"""
import json
from lerobot_policy_robot_value.configuration_robot_value import RobotValueConfig
from lerobot_policy_robot_value.steering import make_steerer
from robot_value.loop import run_episodes
from robot_value.sim.robosuite_robot import Config

class Log:
    wants_episodes = False
    found = []
    def on_decision(self, observation, decision, outcome):
        for row in range(2):
            about = [int(observation.episode[row]), int(observation.step[row]), int(decision.index[row])]
            self.found.append([*about, decision.value[row].tolist(), decision.chunk[row, 0].tolist()])

paths = {{"base_path": "{BASE}", "critic_path": "critic", "device": "cpu"}}
steerer = make_steerer(RobotValueConfig(**paths, num_candidates={N}, selector="argmax"))
robot = Config(cameras=("agentview",), camera_size={PIXELS}, max_steps={STEPS}).build(2, n_obs_steps=2)
run_episodes(robot, steerer, watchers=[Log()], seeds=(0, 1))
robot.close()
json.dump(Log.found, open("ours.json", "w"))
"""
TINY = {"type": "diffusion", "n_obs_steps": 2, "horizon": 8, "n_action_steps": SCOPE, "n_groups": 4, "device": "cpu"}
TINY |= {"down_dims": "[16,32]", "diffusion_step_embed_dim": 16, "spatial_softmax_num_keypoints": 4}
TINY |= {"noise_scheduler_type": "DDIM", "num_inference_steps": 2, "use_group_norm": True, "push_to_hub": False}
TINY |= {"pretrained_backbone_weights": "null"}
ENV = {"type": "robosuite", "task": "Lift", "robot.camera_size": PIXELS, "robot.max_steps": STEPS}


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(folder)
        steer = {"path": "wrapped", "num_candidates": N, "selector": "argmax", "decisions_path": "decisions.jsonl"}
        commands = [["python", PREPARE], train(), ["python", CRITIC], ["python", WRAP]]
        commands += [evaluate("base", path=BASE), evaluate("unsteered", type="robot_value", base_path=BASE)]
        commands += [evaluate("steered", **steer), ["python", OURS]]
        run(commands, folder)
        checks = judged(folder)
    for what, passed in checks.items():
        print(f"{'ok  ' if passed else 'FAIL'} {what}")
    return 0 if all(checks.values()) else 1


def install(folder: Path) -> None:
    """By one pip command, away from this environment and from the sources."""
    for name in PACKAGES:
        source = ROOT / "plugins" / name
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    target = ["--disable-pip-version-check", "--target", str(folder / "site")]
    subprocess.run([*pip, *target, *(str(folder / name) for name in PACKAGES)], check=True)


def run(commands: list[list[str]], folder: Path) -> None:
    paths = {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}", "HF_HOME": str(folder / "hf")}
    paths |= {"HF_LEROBOT_HOME": str(folder / "lerobot"), "HF_HUB_OFFLINE": "1"}
    text = json.dumps(commands)
    subprocess.run(
        [sys.executable, "-c", COMMANDS], input=text, text=True, env=os.environ | paths, cwd=folder, check=True
    )


def train() -> list[str]:
    data = {"repo_id": "local/set", "root": "set", "video_backend": "pyav"}
    more = ["--steps=2", "--save_freq=2", "--batch_size=2", "--num_workers=0", "--output_dir=run"]
    return ["lerobot-train", *flags("dataset", data), *flags("policy", TINY), *more]


def evaluate(out: str, **policy: Any) -> list[str]:
    play = {"n_episodes": 2, "batch_size": 2, "use_async_envs": False, "recording": True}
    asked = [*flags("policy", {**policy, "device": "cpu"}), *flags("env", ENV), *flags("eval", play)]
    return ["lerobot-eval", *asked, "--seed=0", f"--output_dir={out}"]


def flags(kind: str, values: dict[str, Any]) -> list[str]:
    said = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}
    return [f"--{kind}.{name}={value}" for name, value in said.items()]


def judged(folder: Path) -> dict[str, bool]:
    lines = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    theirs = [[line[key] for key in ("episode", "step", "index", "value", "action")] for line in lines]
    ours = json.loads((folder / "ours.json").read_text())
    base, unsteered, steered = (recorded(folder / name) for name in ("base", "unsteered", "steered"))
    when = [[0, 0], [1, 0], [0, SCOPE], [1, SCOPE]]
    return {
        "unsteered lerobot-eval executes the base's actions to the bit": len(base[0]) == STEPS and base == unsteered,
        "steered lerobot-eval decides what our own loop decides, to the bit": theirs == ours,
        f"decisions are made every {SCOPE} steps": [row[:2] for row in theirs] == when,
        "the highest score is chosen": all(row[3][row[2]] == max(row[3]) for row in theirs),
        "what is decided is executed": [rows[0] for rows in steered] == [row[4] for row in theirs[:2]],
        "steering changes what is executed": steered != base,
    }


def recorded(folder: Path) -> list[list[list[float]]]:
    """Actions by episode and step, as lerobot-eval recorded them."""
    import pyarrow.parquet as parquet

    files = sorted(folder.glob("recordings/**/data/**/*.parquet"))
    return [parquet.read_table(file)["action"].to_pylist() for file in files]


if __name__ == "__main__":
    sys.exit(main())
