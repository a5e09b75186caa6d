"""Which nodes a launch starts, with which parameters: plain data.

The launch files render it (launching.py); start.py and the tests start it by subprocess.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robot_value.components import unknown

NAMESPACE = "/robot_value"
YES, NO = ("true", "1", "yes"), ("false", "0", "no")


class LaunchError(ValueError):
    """The arguments of a launch cannot be used; the message says which and what was expected."""


@dataclass(frozen=True)
class Argument:
    """What the user may say: `name:=value`. An empty default leaves it to the parameter file."""

    name: str
    default: str
    description: str  # meaning and unit


@dataclass(frozen=True)
class Program:
    """A node: executable `<name>_node`, section `/**/<name>` of the parameter file."""

    name: str
    takes: Mapping[str, str] = field(default_factory=dict)  # its parameter -> argument
    sets: Mapping[str, Any] = field(default_factory=dict)  # its parameter -> value
    when: str = ""  # argument that must be true, or say something; "": always

    @property
    def executable(self) -> str:
        return f"{self.name}_node"


@dataclass(frozen=True)
class Launch:
    description: str
    arguments: tuple[Argument, ...]
    programs: tuple[Program, ...]


@dataclass(frozen=True)
class Process:
    """A node that is to be started: everything is said."""

    name: str
    executable: str
    files: tuple[Path, ...]  # of parameters
    parameters: Mapping[str, Any]  # on top of them


ROBOT = Argument("robot", "simulated_panda", "simulated_panda, franka, ur5e, so101, or the path of a parameter file")
TOPICS = Argument("topics", "", "what its topics mean (docs/topics.md); empty: <robot>_topics.yaml beside it")
POLICY = Argument("policy", "", "checkpoint of the policy, a folder; needed")
CRITIC = Argument("critic", "", "checkpoint of the critic, a folder; empty: the policy acts alone")
ONLINE = Argument("online", "", "folder of `train online --follow`: its newest version acts from the next episode on")
STORE = Argument("store", "", "episode store to append to, a folder; empty: the parameter file's")
TASK = Argument("task", "", "what the robot is told to do, for policies that read it, and for the record")
SIMULATED = Argument("simulated", "false", "true: start the simulated arm as well, no robot needed")
TELEOP = Argument("teleop", "", "what a human takes over with: joystick, twist or trajectory; empty: nothing")
RECORD = Argument("record", "true", "false: episodes begin and end by the same services, and nothing of them is stored")
GUARD = Argument("guard", "true", "false: another node commands the arm; nothing of ours publishes to its controllers")
SWITCHES = (SIMULATED.name, RECORD.name, GUARD.name)  # true or false

HERE = {"topics": "topics"}
ARM = Program("simulated_arm", HERE, when="simulated")
HUMAN = Program("teleop", {**HERE, "source": "teleop"}, when="teleop")
RECORDED = {**HERE, "store": "store", "task": "task"}
RECORDER = Program("recorder", {**RECORDED, "keep": "record"})
MODELS = {**HERE, "policy": "policy", "critic": "critic"}

LAUNCHES = {
    "steer": Launch(
        "A policy, steered by a critic, moves the arm through the guard; everything is recorded.",
        (ROBOT, TOPICS, POLICY, CRITIC, ONLINE, STORE, TASK, SIMULATED, TELEOP, RECORD),
        (ARM, Program("guard", HERE), Program("steering", {**MODELS, "online": "online"}), HUMAN, RECORDER),
    ),
    "shadow": Launch(
        "The critic scores and logs, and nothing it says moves the arm: a first day on a robot.",
        (ROBOT, TOPICS, POLICY, CRITIC, STORE, TASK, SIMULATED, TELEOP, RECORD, GUARD),
        (
            ARM,
            Program("guard", HERE, when="guard"),
            Program("steering", MODELS, {"mode": "shadow"}),
            HUMAN,
            Program("recorder", {**RECORDER.takes, "guarded": "guard"}),
        ),
    ),
    "record": Launch(
        "Episodes of a human who drives the arm through the guard.",
        (ROBOT, TOPICS, STORE, TASK, SIMULATED, TELEOP, GUARD),
        (
            ARM,
            Program("guard", HERE, when="guard"),
            HUMAN,
            Program("recorder", {**RECORDED, "guarded": "guard"}, {"steered": False}),
        ),
    ),
    "replay": Launch(
        "A recorded episode through the topics, and what steering decides on it; no arm, no guard.",
        (
            ROBOT,
            TOPICS,
            POLICY,
            CRITIC,
            Argument("episodes", "", "what is played: an episode store, or an MCAP file or bag"),
            Argument("episode", "", "name of the episode; empty: the first"),
        ),
        (
            Program("steering", MODELS, {"mode": "shadow"}),
            Program("replay", {**HERE, "store": "episodes", "episode": "episode"}),
        ),
    ),
    "simulated_arm": Launch(
        "The simulated arm behind the topics of a ros2_control arm.", (ROBOT, TOPICS), (Program("simulated_arm", HERE),)
    ),
    "doctor": Launch(
        "What is installed, whether a checkpoint loads, and for which robot it is; on /diagnostics.",
        (Argument("checkpoint", "", "checkpoint to verify and load once, a folder; empty: none"),),
        (Program("doctor", {"checkpoint": "checkpoint"}),),
    ),
}


def processes(launch: str, given: Mapping[str, str], folder: Path) -> list[Process]:
    """What is to be started; `folder` holds the launch files and their params. Raises LaunchError."""
    if launch not in LAUNCHES:
        raise LaunchError(unknown("launch", launch, sorted(LAUNCHES)))
    values = {argument.name: argument.default for argument in LAUNCHES[launch].arguments}
    for name in given:
        if name not in values:
            raise LaunchError(unknown("argument", name, sorted(values)))
    values |= given
    file = _profile(values.get("robot", launch), folder / "params")
    if values.get("topics") == "":
        values["topics"] = str(_existing(file.with_name(f"{file.stem}_topics.yaml"), "topics"))
    return [_process(program, values, file) for program in LAUNCHES[launch].programs if _wanted(program, values)]


def command(process: Process, namespace: str = NAMESPACE) -> list[str]:
    """The command line that starts it with this interpreter."""
    rules = ["-r", f"__ns:={namespace}", "-r", f"__node:={process.name}"]
    for file in process.files:
        rules += ["--params-file", str(file)]
    for name, value in process.parameters.items():
        rules += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML, and a text stays a text
    return [sys.executable, "-m", f"robot_value.ros_nodes.{process.executable}", "--ros-args", *rules]


def program(name: str) -> dict[str, Any]:
    """For launch_ros: the installed executable; where there is none (editable install), the module."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        if (Path(get_package_prefix("robot_value")) / "lib" / "robot_value" / name).exists():
            return {"package": "robot_value", "executable": name}
    except (PackageNotFoundError, OSError):  # OSError: AMENT_PREFIX_PATH is not set
        pass
    return {"executable": sys.executable, "arguments": ["-m", f"robot_value.ros_nodes.{name}"]}


def _profile(robot: str, params: Path) -> Path:
    """Of a shipped robot by name, or the user's own file."""
    own = robot.endswith(".yaml")
    return _existing(Path(robot).absolute() if own else params / f"{robot}.yaml", "robot")


def _existing(file: Path, argument: str) -> Path:
    if not file.is_file():
        others = sorted(path.stem for path in file.parent.glob("*.yaml") if not path.stem.endswith("topics"))
        raise LaunchError(f"{argument}: expected a file, got {file}; beside it: {', '.join(others) or 'nothing'}")
    return file


def _wanted(program: Program, values: Mapping[str, str]) -> bool:
    return not program.when or bool(_meant(program.when, values[program.when]))


def _meant(argument: str, value: str) -> str | bool:
    """A switch as a bool, any other argument as the text it is."""
    if argument not in SWITCHES:
        return value
    if value.lower() not in YES + NO:
        raise LaunchError(f"{argument}: expected true or false, got {value!r}")
    return value.lower() in YES


def _process(program: Program, values: Mapping[str, str], file: Path) -> Process:
    given = {name: argument for name, argument in program.takes.items() if values.get(argument)}
    taken = {name: _meant(argument, values[argument]) for name, argument in given.items()}
    return Process(program.name, program.executable, (file,), {**taken, **program.sets})
