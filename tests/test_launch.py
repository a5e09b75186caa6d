"""The node table: what every launch starts exists, is configured by fields that exist, and starts as it is."""

import ast
import contextlib
import dataclasses
import importlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

from robot_value import flags, topics
from robot_value.commands import robot
from robot_value.episodes import EpisodeStore
from robot_value.ros_nodes import node_table, start
from robot_value.ros_nodes.node_table import LAUNCHES, LaunchError, command, processes
from robot_value.safety import Limits

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
PARAMS = LAUNCH / "params"
ROBOTS = sorted(path.stem for path in PARAMS.glob("*.yaml") if (PARAMS / f"{path.stem}_topics.yaml").exists())
NODES = sorted({program.name for launch in LAUNCHES.values() for program in launch.programs} - {"doctor"})


def sections(file):
    """{node name: {parameter: value}} of a parameter file."""
    data = yaml.safe_load(Path(file).read_text())
    return {name.removeprefix("/**/"): section["ros__parameters"] for name, section in data.items()}


def config_of(node):
    pytest.importorskip("rclpy")
    return importlib.import_module(f"robot_value.ros_nodes.{node}_node").Config


def made(node, values):
    """The node's Config, with the checks that ROS and the node would make."""
    config = config_of(node)
    from robot_value.ros_nodes.parameters import _why_out_of_range

    for item in dataclasses.fields(config):
        if item.name in values:
            assert not _why_out_of_range(item, values[item.name]), item.name
            wanted = type(item.default)
            assert type(values[item.name]) is (list if wanted is tuple else wanted), f"{item.name}: {wanted}"
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_launch_has_its_file_and_every_file_its_launch():
    # mutation: leave shadow.launch.py out
    assert {path.name.removesuffix(".launch.py") for path in LAUNCH.glob("*.launch.py")} == set(LAUNCHES)
    for name in LAUNCHES:
        source = (LAUNCH / f"{name}.launch.py").read_text()
        assert f'describe("{name}", __file__)' in source and f"{name}.launch.py" in ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("name", LAUNCHES)
def test_names_are_unique_executables_exist_and_arguments_are_used_and_explained(name):
    # mutation: an argument that no program takes; a program called guards
    launch = LAUNCHES[name]
    names = [program.name for program in launch.programs]
    assert len(set(names)) == len(names)
    for program in launch.programs:
        assert (ROOT / "ros_nodes" / f"{program.executable}.py").exists()
        script = ROOT / "ros_nodes" / "scripts" / program.executable
        assert os.access(script, os.X_OK) and f"{program.executable} import main" in script.read_text()
        assert f'"{program.executable} = robot_value.ros_nodes.{program.executable}:main"' in setup()
    arguments = [argument.name for argument in launch.arguments]
    assert len(set(arguments)) == len(arguments) and all(len(a.description) > 15 for a in launch.arguments)
    used = {a for program in launch.programs for a in (*program.takes.values(), program.when)}
    assert used - {""} | {"robot"} >= set(arguments) and used - {""} <= set(arguments)


def setup():
    return (ROOT / "setup.py").read_text()


@pytest.mark.parametrize("name", set(LAUNCHES) - {"doctor"})
def test_what_a_launch_sets_is_a_parameter_of_the_node(name):
    # mutation: Program("guard", {"topic": "topics"})
    for program in LAUNCHES[name].programs:
        fields = {item.name for item in dataclasses.fields(config_of(program.name))}
        assert set(program.takes) | set(program.sets) <= fields, program.name


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_key_of_a_profile_is_a_field_of_its_node_in_range_and_of_its_type(robot):
    # mutation: jerks: [100.0]; jerk: [100] (an integer is refused by ROS); rate: 500.0
    found = sections(PARAMS / f"{robot}.yaml")
    assert {"guard", "steering", "recorder", "teleop"} <= set(found) <= set(NODES)
    for node, values in found.items():
        unknown = set(values) - {item.name for item in dataclasses.fields(config_of(node))}
        assert not unknown, f"{robot} {node}: {unknown}"
        made(node, {**values, "topics": "t.yaml"} | ({"policy": "p"} if node == "steering" else {}))


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_profiles_limits_fit_its_topics(robot):
    # mutation: seven velocities for the six joints of a UR5e
    guard, meaning = sections(PARAMS / f"{robot}.yaml")["guard"], topics.load(PARAMS / f"{robot}_topics.yaml")
    limits = Limits.from_spec(meaning.spec, guard["velocity"], guard["acceleration"], guard["jerk"])
    assert (limits.velocity < 7).any() and len(limits.low) == meaning.spec.action_dim
    names = {joint for entry in meaning.state for joint in entry.joints}
    arm = next(entry for entry, part in zip(meaning.action, meaning.parts, strict=True) if part.kind == "joint")
    assert set(arm.names) <= names | {name for entry in meaning.state for name in entry.names}


MAKERS = {  # position limits, speed; rad and rad/s
    "franka": (
        [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159],
        [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159],
        [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26],
    ),
    "ur5e": ([-2 * np.pi] * 2 + [-np.pi] + [-2 * np.pi] * 3, [2 * np.pi] * 2 + [np.pi] + [2 * np.pi] * 3, [np.pi] * 6),
    "so101": ([-1.91986, -1.74533, -1.69, -1.65806, -2.74385], [1.91986, 1.74533, 1.69, 1.65806, 2.84121], [4.7] * 5),
}


@pytest.mark.parametrize("robot", MAKERS)
def test_a_real_arms_profile_stays_inside_what_its_maker_allows(robot):
    # mutation: velocity [2.9] for a joint that has 2.62
    low, high, speed = map(np.array, MAKERS[robot])
    guard, meaning = sections(PARAMS / f"{robot}.yaml")["guard"], topics.load(PARAMS / f"{robot}_topics.yaml")
    part = meaning.parts[0]
    assert (np.array(part.low) > low).all() and (np.array(part.high) < high).all()
    assert (np.array(guard["velocity"]) <= speed).all()
    assert not guard.get("enabled", False) and guard.get("real", True), "motion is asked for, on a real arm"


# -- what is started ---------------------------------------------------------------------------------------------------


def test_arguments_reach_the_nodes_that_take_them_and_files_are_found():
    # mutation: pass empty arguments on; a switch as text, which ROS refuses for a bool
    given = {"robot": "ur5e", "policy": "RUN/policy", "simulated": "true", "record": "false"}
    found = {each.name: each for each in processes("steer", given, LAUNCH)}
    assert list(found) == ["simulated_arm", "guard", "steering", "recorder"]
    assert found["recorder"].parameters["keep"] is False
    assert found["steering"].parameters == {"topics": str(PARAMS / "ur5e_topics.yaml"), "policy": "RUN/policy"}
    assert found["guard"].files == (PARAMS / "ur5e.yaml",)
    shadow = {each.name: each for each in processes("shadow", {"guard": "false", "critic": "C"}, LAUNCH)}
    assert shadow["steering"].parameters["mode"] == "shadow" and "guard" not in shadow
    assert shadow["recorder"].parameters["guarded"] is False and shadow["recorder"].parameters["keep"] is True


@pytest.mark.parametrize("guard", ["true", "false"])
@pytest.mark.parametrize("launch", ["shadow", "record"])
def test_the_recorder_knows_whether_there_is_a_guard(launch, guard):
    # mutation: only in shadow; a guard that is not started
    found = {each.name: each for each in processes(launch, {"guard": guard}, LAUNCH)}
    assert found["recorder"].parameters["guarded"] is (guard == "true") is ("guard" in found)
    assert found["recorder"].parameters.get("steered", True) is (launch == "shadow")


@pytest.mark.parametrize("launch", ["steer", "shadow"])
def test_whoever_steers_has_somebody_who_starts_episodes(launch):
    # mutation: no recorder where nothing is to be recorded
    for record in ("true", "false"):
        found = {each.name: each for each in processes(launch, {"record": record}, LAUNCH)}
        assert found["recorder"].parameters["keep"] is (record == "true")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"robt": "ur5e"}, "did you mean 'robot'"),
        ({"robot": "ur6"}, "so101"),
        ({"record": "perhaps"}, "record: expected true or false"),
        ({"simulated": "perhaps"}, "simulated: expected true or false"),
    ],
)
def test_a_mistake_is_one_clear_line(given, said):
    # mutation: ignore unknown arguments
    with pytest.raises(LaunchError, match=said):
        processes("steer", given, LAUNCH)


def test_a_users_own_profile_is_a_path(tmp_path):
    # mutation: look for it among the shipped ones
    for name in ("mine.yaml", "mine_topics.yaml"):
        (tmp_path / name).write_text("")
    found = processes("simulated_arm", {"robot": str(tmp_path / "mine.yaml")}, LAUNCH)
    assert found[0].files == (tmp_path / "mine.yaml",)
    assert found[0].parameters["topics"] == str(tmp_path / "mine_topics.yaml")


def test_a_text_that_looks_like_a_number_stays_a_text():
    # mutation: str(value) instead of json.dumps
    words = command(node_table.Process("recorder", "recorder_node", (), {"task": "007", "steered": False}))
    assert words[-4:] == ["-p", 'task:="007"', "-p", "steered:=false"] and words[0] == sys.executable


def test_usage_lists_every_launch_and_argument():
    # mutation: leave the arguments out
    text = start.usage()
    assert all(name in text for name in LAUNCHES) and "simulated:=false" in text
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert start.main(["fly"]) == 2
    assert "no launch called 'fly'" in said.getvalue()


# -- launch files ------------------------------------------------------------------------------------------------------


class Recorded(dict):
    """Anything of launch or launch_ros: remembers what it was made of. ROS's launch is not on PyPI."""

    def __init__(self, *values, **named):
        super().__init__(named, values=values)

    def perform(self, context):
        return context.get(self["values"][0], "")


class Anything(types.ModuleType):
    def __getattr__(self, name):
        return Recorded


@pytest.fixture
def prefix(monkeypatch):
    """{package: prefix} of ament; launch, launch_ros and ament_index_python are stand-ins."""

    class NotFound(Exception): ...

    def get_package_prefix(name):
        if name not in known:
            raise NotFound(name)
        return known[name]

    known = {}
    for name in ("launch", "launch.actions", "launch.substitutions", "launch_ros", "launch_ros.actions"):
        monkeypatch.setitem(sys.modules, name, Anything(name))
    index = types.ModuleType("packages")
    index.PackageNotFoundError, index.get_package_prefix = NotFound, get_package_prefix
    monkeypatch.setitem(sys.modules, "ament_index_python", types.ModuleType("ament_index_python"))
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", index)
    return known


def nodes(name, **given):
    """What ROS's launch would be given for `name:=value` arguments."""
    found = runpy.run_path(str(LAUNCH / f"{name}.launch.py"))["generate_launch_description"]()["values"][0]
    declared = {each["values"][0]: each["default_value"] for each in found[:-1]}
    assert all(each["description"] for each in found[:-1])
    return found[-1]["function"](declared | given)


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_launch_file_gives_the_nodes_of_the_table(name, prefix):
    # mutation: no namespace; no parameters beside the file
    given = {"simulated": "true", "policy": "P"} if name == "steer" else {}
    found = nodes(name, **given)
    assert [node["name"] for node in found] == [each.name for each in processes(name, given, LAUNCH)]
    for node in found:
        assert node["executable"] == sys.executable and node["namespace"] == "/robot_value"
        assert node["arguments"] == ["-m", f"robot_value.ros_nodes.{node['name']}_node"]
        assert Path(node["parameters"][0]).is_file()
    if name == "steer":
        assert next(n for n in found if n["name"] == "steering")["parameters"][1]["policy"] == "P"


def test_an_installed_program_is_preferred(prefix, tmp_path):
    # mutation: always the module
    prefix["robot_value"] = str(tmp_path)
    assert nodes("doctor")[0]["executable"] == sys.executable  # known to ament, but without programs
    (tmp_path / "lib" / "robot_value").mkdir(parents=True)
    (tmp_path / "lib" / "robot_value" / "doctor_node").touch()
    node = nodes("doctor", checkpoint="C")[0]
    assert (node["package"], node["executable"]) == ("robot_value", "doctor_node") and "arguments" not in node
    assert node["parameters"][1] == {"checkpoint": "C"}


# -- the guides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["deploy.md", "safety.md"])
def test_links_and_commands_of_the_guides_lead_somewhere(page):
    # mutation: robots:=my_arm.yaml, or --topic=, in docs/deploy.md
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / "docs" / link).exists(), link
    for name, said in re.findall(r"ros2 launch robot_value (\w+)\.launch\.py([^\n`#]*)", text):
        given = {word.partition(":=")[0] for word in said.split()}
        assert given <= {argument.name for argument in LAUNCHES[name].arguments}, said
    for said in re.findall(r"robot-value robot check ([^\n`#]*)", text):
        flags.parse(robot.Check, said.split())


# -- the real nodes ----------------------------------------------------------------------------------------------------


def test_the_table_starts_the_simulated_arm_guard_and_recorder_and_ctrl_c_ends_them(tmp_path):
    # mutation: start_new_session=False (each node gets two Ctrl-C and ends with 130); actions not from `executed`
    pytest.importorskip("rclpy")
    from ros_graph import Graph, until
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    with Graph(tmp_path) as graph:
        from robot_value.ros_nodes.managed import LATCHED

        states = graph.listen(String, "guard_state", LATCHED)
        words = ["record", "robot:=simulated_panda_first_order", "simulated:=true", f"store:={tmp_path / 'episodes'}"]
        program = [sys.executable, "-m", "robot_value.ros_nodes.start", *words]
        with (tmp_path / "log").open("wb") as log:
            running = subprocess.Popen(program, cwd=tmp_path, env=graph.variables, stdout=log, stderr=log)
        try:
            for name in ("simulated_arm", "guard", "recorder"):
                wait_active(graph, name)
            states.wait()
            assert graph.call(Trigger, "recorder/start").success
            time.sleep(2.0)
            assert graph.call(Trigger, "recorder/stop").success
            until(lambda: "steps are stored" in (tmp_path / "log").read_text(), 10, "an episode")
        finally:
            running.send_signal(signal.SIGINT)
            code = running.wait(20)
        assert code == 0, (tmp_path / "log").read_text()[-2000:]
    store = EpisodeStore.open(tmp_path / "episodes")
    for episode in map(store.read, store.names()):
        assert episode.provenance["stopped"] == list(range(len(episode)))  # nobody drove, the guard held the arm


def wait_active(graph, name):
    end = time.monotonic() + 20
    while (state := graph.state(name)) != "active":
        assert time.monotonic() < end, f"{name}: {state}"
        time.sleep(0.05)
