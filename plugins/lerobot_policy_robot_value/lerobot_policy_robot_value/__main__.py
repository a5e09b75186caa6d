"""`python -m lerobot_policy_robot_value BASE OUT`: a folder for --policy.path, where a command takes nothing else.

It holds the settings and the two paths; every setting can still be changed by --policy.num_candidates=8 and the like.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .configuration_robot_value import RobotValueConfig
from .processor_robot_value import save


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lerobot_policy_robot_value", description=__doc__)
    parser.add_argument("base", type=Path, help="folder of the LeRobot checkpoint that proposes")
    parser.add_argument("out", type=Path, help="new folder for --policy.path")
    parser.add_argument("--critic", type=Path, help="folder of the critic that scores")
    asked = parser.parse_args()
    for path in filter(None, (asked.base, asked.critic)):
        if not path.is_dir():
            parser.error(f"{path}: expected a folder, got none")
    asked.out.mkdir(parents=True)
    critic = str(asked.critic.resolve()) if asked.critic else ""
    save(RobotValueConfig(base_path=str(asked.base.resolve()), critic_path=critic), asked.out)


if __name__ == "__main__":
    main()
