"""`python plugins/check_arm.py`: LeRobot's own lerobot-record and lerobot-replay on an arm behind our guard.

Simulated arm and guard run as they do on a robot. A scripted hand (a teleoperator package that is made here) waves one
joint while lerobot-record records two episodes, lerobot-replay plays the first one, and our converter reads them. Exit
0 where what was recorded is what the hand asked for, the arm went there both times, and the guard executed it as a
human's first and as a policy's then. A minute of one CPU; nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from check_commands import ROOT, flags, install, run

sys.path.insert(0, str(ROOT / "tests"))
from ros_graph import Graph

TOPICS = ROOT / "launch" / "params" / "simulated_panda_first_order_topics.yaml"
JOINT, FPS, SECONDS, EPISODES = "panda_joint2.pos", 20, 4, 2
REACH, PERIOD = 0.1, 2.0  # rad and s of the wave
LATE = 0.3  # s that the arm may follow behind: guard, driver and LeRobot's own loop
# As wide as a machine that stands still now and then needs.
GUARD = {"velocity": [2.175], "acceleration": [15.0], "jerk": [7500.0], "max_state_age": 2.0, "real": False}
GUARD |= {"max_clamps_per_second": 1000}
HAND = f'''
import json, math, time
from dataclasses import dataclass
from lerobot.teleoperators.config import TeleoperatorConfig
from lerobot.teleoperators.teleoperator import Teleoperator

@TeleoperatorConfig.register_subclass("waving")
@dataclass(kw_only=True)
class WavingConfig(TeleoperatorConfig):
    home: str

class Waving(Teleoperator):
    config_class, name = WavingConfig, "waving"
    began, is_connected, is_calibrated, feedback_features = 0.0, False, True, {{}}

    def __init__(self, config):
        super().__init__(config)
        self.home = json.load(open(config.home))

    @property
    def action_features(self):
        return dict.fromkeys(self.home, float)

    def connect(self, calibrate=True):
        self.is_connected = True

    def disconnect(self):
        self.is_connected = False

    def get_action(self):
        self.began = self.began or time.monotonic()
        moved = {REACH} * (1 - math.cos(2 * math.pi * (time.monotonic() - self.began) / {PERIOD})) / 2
        return self.home | {{"{JOINT}": self.home["{JOINT}"] + moved}}

    def calibrate(self): ...
    def configure(self): ...
    def send_feedback(self, feedback): ...
'''
HOME = f"""
import json
from lerobot.robots.utils import make_robot_from_config
from lerobot_robot_robot_value import Ros2GuardArmConfig
robot = make_robot_from_config(Ros2GuardArmConfig(topics={str(TOPICS)!r}, patience=20.0))
robot.connect()
seen = robot.get_observation()
robot.disconnect()
json.dump({{name: seen[name] for name in robot.action_features}}, open("home.json", "w"))
"""
CONVERT = """
from robot_value.cli import main
assert main(["data", "convert", "taught", "store"]) == 0
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(folder)
        add_hand(folder / "site")
        (folder / "nodes").mkdir()
        executed = play(folder)
        checks = judged(folder, executed)
    for what, passed in checks.items():
        print(f"{'ok  ' if passed else 'FAIL'} {what}")
    return 0 if all(checks.values()) else 1


def add_hand(site: Path) -> None:
    """A package that LeRobot finds by its name."""
    name = "lerobot_teleoperator_waving"
    about = site / f"{name}-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (site / name).mkdir()
    (site / name / "__init__.py").write_text("from .hand import Waving, WavingConfig\n")
    (site / name / "hand.py").write_text(HAND)


def play(folder: Path) -> list[dict[str, list]]:
    """What the guard executed during lerobot-record and lerobot-replay: sources, and where JOINT was."""
    from trajectory_msgs.msg import JointTrajectory

    from robot_value import wire
    from robot_value.ros_nodes.managed import RECORD

    found = []
    with Graph(folder / "nodes") as graph:
        os.environ |= {name: graph.variables[name] for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")}
        heard = graph.listen(JointTrajectory, "executed", RECORD)
        nodes = [graph.start("simulated_arm_node", {"topics": str(TOPICS), "command_timeout": 0.5})]
        nodes += [graph.start("guard_node", {"topics": str(TOPICS), **GUARD})]
        for node in nodes:
            graph.wait_state(node)
        run([["python", HOME]], folder)
        for command in (record(), replay()):
            since = time.monotonic_ns()
            run([command], folder)
            messages = [message for _, message in heard.since(since)]
            at = messages[0].joint_names.index(JOINT.removesuffix(".pos"))
            sources = sorted({wire.parse_header(message.header.frame_id).source for message in messages})
            found.append({"sources": sources, "positions": [message.points[0].positions[at] for message in messages]})
    run([["python", CONVERT]], folder)
    return found


def record() -> list[str]:
    data = {"repo_id": "local/taught", "root": "taught", "num_episodes": EPISODES, "episode_time_s": SECONDS}
    data |= {"reset_time_s": round(PERIOD), "fps": FPS, "single_task": "wave", "push_to_hub": False, "video": False}
    hand = {"type": "waving", "home": "home.json"}
    return ["lerobot-record", *flags("robot", arm("human")), *flags("teleop", hand), *flags("dataset", data), QUIET]


def replay() -> list[str]:
    data = {"repo_id": "local/taught", "root": "taught", "episode": 0, "fps": FPS}
    return ["lerobot-replay", *flags("robot", arm("policy")), *flags("dataset", data), QUIET]


QUIET = "--play_sounds=false"


def arm(source: str) -> dict[str, Any]:
    return {"type": "ros2_guard", "topics": TOPICS, "source": source, "patience": 20, "id": "arm"}


def judged(folder: Path, executed: list[dict[str, list]]) -> dict[str, bool]:
    from robot_value.episodes import EpisodeStore

    home = json.loads((folder / "home.json").read_text())
    store = EpisodeStore.open(folder / "store")
    episodes = [store.read(name) for name in store.names()]
    asked = [episode.actions[:, list(home).index(JOINT)] - home[JOINT] for episode in episodes]
    seen = [episode.states[:, store.spec.state_names.index(JOINT)] - home[JOINT] for episode in episodes]
    by_record, by_replay = (set(each["sources"]) for each in executed)
    taught, played = (np.array(each["positions"]) - home[JOINT] for each in executed)
    print(f"rad: taught {np.ptp(taught):.4f}, asked {np.ptp(asked[0]):.4f}, replayed {np.ptp(played):.4f}")
    return {
        f"{EPISODES} episodes of about {SECONDS} s": len(asked) == EPISODES
        and all(len(each) > 0.7 * FPS * SECONDS for each in asked),
        "the hand's whole wave is in the actions": all(np.ptp(each) > 0.95 * REACH for each in asked),
        "the arm is where the hand was": all(follows(a, s) for a, s in zip(asked, seen, strict=True)),
        "the guard executed it as a human's": "human" in by_record and "policy" not in by_record,
        "and what was replayed as a policy's": "policy" in by_replay and "human" not in by_replay,
        "the same wave, twice": abs(np.ptp(taught) - np.ptp(played)) < 0.05 * REACH,
        "nothing but the wave": np.ptp(played) < 1.05 * REACH,
    }


def follows(asked: np.ndarray, seen: np.ndarray) -> bool:
    """Every state is near what was asked for within the last LATE s."""
    late = round(LATE * FPS)
    for t in range(late, len(asked)):
        recent = asked[t - late : t + 1]
        if not recent.min() - 0.1 * REACH < seen[t] < recent.max() + 0.1 * REACH:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
