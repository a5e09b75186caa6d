"""The `robot-value` command as a user types it: verbs, one-line errors, exit codes, a run from collect to evaluate."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from draccus.wrappers.docstring import get_attribute_docstring, get_preferred_help_text

from robot_value import cli, components
from robot_value.commands import bench
from robot_value.commands import demo as demo_command
from robot_value.commands.calibrate import Calibrate
from robot_value.commands.collect import Collect
from robot_value.commands.data import ACTIONS
from robot_value.commands.demo import Demo
from robot_value.commands.evaluate import Evaluate
from robot_value.commands.mine import Mine
from robot_value.commands.replay import Replay
from robot_value.commands.train import Train
from robot_value.episodes.store import EpisodeStore

TINY = [
    "--training.batch_size=16",
    "--training.progress=false",
    "--training.tensorboard=false",
    "--windowing.horizon=4",
]


@pytest.fixture(scope="module")
def mylab(tmp_path_factory):
    """A third party's package with a robot in it."""
    folder = tmp_path_factory.mktemp("site") / "mylab"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "walk.py").write_text("from fleet_simulators import Config\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder.parent)
        yield "mylab.walk"


@pytest.fixture(scope="module")
def trained(mylab, tmp_path_factory):
    """A store, a policy and a critic made by the command; their folders."""
    out = tmp_path_factory.mktemp("run")
    data, robot = f"{out}/episodes", [f"--robot.type={mylab}", "--robot.max_steps=12"]
    assert cli.main(["collect", *robot, "--episodes=12", "--workers=0", f"--out={data}"]) == 0
    small = {"policy": ["flow", "--policy.width=16", "--policy.depth=1"], "critic": ["iql", "--critic.hidden=[16]"]}
    for which, (name, *flags) in small.items():
        train = ["--training.steps=5", f"--training.folder={out}/{which}", *TINY]
        assert cli.main(["train", f"--data={data}", f"--{which}.type={name}", *flags, *train]) == 0
    return out


def error(capsys) -> str:
    """The one line a user sees."""
    text = capsys.readouterr().err
    assert text.startswith("robot-value: ") and text.count("\n") == 1
    return text


def test_without_a_verb_the_command_lists_them(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in cli.VERBS)


def test_an_unknown_verb_names_the_closest(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'" in error(capsys)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(verb, capsys):
    try:
        code = cli.main([verb, "--help"])
    except SystemExit as done:
        code = done.code
    assert code == 0 and "usage" in capsys.readouterr().out


def without_help(config: type, prefix: str = "") -> list[str]:
    """Flags of a (nested) dataclass that draccus finds no comment for."""
    hints, missing = get_type_hints(config), []
    for item in fields(config):
        if get_preferred_help_text(get_attribute_docstring(config, item.name)) is None:
            missing.append(prefix + item.name)
        if is_dataclass(hints[item.name]):
            missing += without_help(hints[item.name], f"{prefix}{item.name}.")
    return missing


@pytest.mark.parametrize(
    "command", [Collect, Train, Evaluate, Calibrate, Demo, Replay, Mine, *(action.flags for action in ACTIONS.values())]
)
def test_every_flag_of_a_command_has_a_meaning(command):
    assert without_help(command) == []


@pytest.mark.parametrize("kind", components.KINDS)
def test_every_flag_of_a_component_has_a_meaning(kind):
    for name in components.names(kind):
        config = components.load(kind, name).Config
        assert without_help(config) == [], name


def test_the_command_collects_trains_and_stores_what_was_asked(trained):
    with EpisodeStore.open(trained / "episodes") as store:
        assert len(store) == 12
    assert sorted(p.name for p in (trained / "policy").iterdir()) == ["curves.json", "step_00000005"]


def test_calibrate_writes_a_gate_that_evaluate_uses_and_never_on_its_own_seeds(trained, mylab, capsys):
    # mutation: seeds of the gate not refused; the arm "yours" without its gate
    robot = [f"--robot.type={mylab}", "--robot.max_steps=12", "--workers=1", "--batch_size=5"]
    models = [f"--policy={trained}/policy", f"--critic={trained}/critic"]
    gate = trained / "gate.json"
    assert cli.main(["calibrate", *robot, *models, "--n=3", "--episodes=10", f"--out={gate}"]) == 0
    assert "the critic never acts" in capsys.readouterr().out  # ten episodes prove nothing
    assert json.loads(gate.read_text())["setup"]["n"] == 3 and gate.with_suffix(".png").is_file()
    plan = [
        "--plan.candidates=[2]",
        "--plan.test_episodes=3",
        "--plan.validation_episodes=2",
        "--plan.headroom_episodes=0",
    ]
    yours = ["--n=3", "--gate.type=calibrated", f"--gate.path={gate}", f"--out={trained}/gated"]
    assert cli.main(["evaluate", *robot, *models, *plan, *yours, "--plan.test_seed=1005"]) == 2
    assert "test seeds must be disjoint" in capsys.readouterr().err
    assert cli.main(["evaluate", *robot, *models, *plan, *yours, "--n=4"]) == 2
    refused = capsys.readouterr().err  # mutation: refused only after the validation arms have been played
    assert "n: expected 3, got 4" in refused and "validation arms" not in refused
    assert cli.main(["evaluate", *robot, *models, *plan, *yours, "--selectors=pessimistic,guide_gradient"]) == 0
    arms = json.loads((trained / "gated" / "results.json").read_text())["arms"]
    assert arms["yours"]["gate"] == "calibrated" and arms["yours"]["abstained"] == 1.0
    assert arms["yours"]["success"] == arms["base"]["success"]
    assert {"pessimistic", "guide_gradient"} <= set(arms)


def test_evaluate_writes_a_page_and_results(trained, mylab, capsys):
    models = [f"--policy={trained}/policy", f"--critic={trained}/critic", f"--out={trained}/evaluate"]
    plan = [
        "--plan.candidates=[2]",
        "--plan.test_episodes=3",
        "--plan.validation_episodes=2",
        "--plan.headroom_episodes=0",
    ]
    robot = [f"--robot.type={mylab}", "--robot.max_steps=12", "--workers=0", "--batch_size=3"]
    assert cli.main(["evaluate", *robot, *models, *plan]) == 0
    results = json.loads((trained / "evaluate" / "results.json").read_text())
    assert results["arms"]["argmax"]["n"] == 3 and results["headroom"] is None
    assert "report.html" in capsys.readouterr().out


def test_evaluate_without_a_checkpoint_says_which(capsys):
    assert cli.main(["evaluate", "--policy=x"]) == 2
    assert "--critic: expected the folder of a checkpoint" in error(capsys)


def test_a_missing_checkpoint_is_one_line(trained, mylab, capsys):
    robot = [f"--robot.type={mylab}", "--workers=0", "--batch_size=3"]
    assert cli.main(["evaluate", *robot, f"--policy={trained}/policy", "--critic=nowhere"]) == 2
    assert "nowhere" in error(capsys)


def test_training_needs_a_model(capsys):
    assert cli.main(["train"]) == 2
    assert "got neither" in error(capsys)


def test_inspecting_and_verifying_a_store(trained, capsys):
    assert cli.main(["data", "inspect", f"{trained}/episodes", f"--html={trained}/page.html"]) == 0
    assert "12" in capsys.readouterr().out and (trained / "page.html").stat().st_size > 1000
    assert cli.main(["data", "verify", f"{trained}/episodes"]) == 0


def test_a_damaged_store_is_found(mylab, tmp_path, capsys):
    data = tmp_path / "episodes"
    assert cli.main(["collect", f"--robot.type={mylab}", "--episodes=2", "--workers=0", f"--out={data}"]) == 0
    chunk = next(path for path in sorted(data.rglob("c/0*")) if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert cli.main(["data", "verify", str(data)]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspekt"], "did you mean 'inspect'"),
        (["inspect"], "expected robot-value data inspect STORE, got 0"),
    ],
)
def test_wrong_words_after_data_are_one_line(words, message, capsys):
    assert cli.main(["data", *words]) == 2
    assert message in error(capsys)


@pytest.mark.parametrize("action", ["inspect", "verify"])
def test_a_store_that_is_not_there_is_not_sound(action, capsys):
    assert cli.main(["data", action, "nowhere"]) == 1
    assert "no episode store at nowhere" in capsys.readouterr().err


def test_an_unknown_benchmark_names_the_closest(capsys):
    assert cli.main(["bench", "samplin"]) == 2
    assert "did you mean 'sampling'" in error(capsys)


def test_a_benchmark_gets_its_flags_and_its_exit_code_is_the_command_s(tmp_path, monkeypatch, capsys):
    (tmp_path / "bench_echo.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(3)\n")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert cli.main(["bench", "echo", "--quick"]) == 3
    assert "['--quick']" in capsys.readouterr().out
    assert cli.main(["bench", "all"]) == 3


def test_an_installed_package_without_benchmarks_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert cli.main(["bench", "sampling"]) == 2
    assert "run from a clone" in error(capsys)


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run", interrupted)
    assert cli.main(["bench", "sampling"]) == 130
    assert "run the same command again" in error(capsys)


def test_the_demo_takes_candidates_and_temperatures_from_its_scenario_unless_told(monkeypatch, tmp_path, capsys):
    plans = []

    def remember(scenario, setup, plan, out):
        plans.append((scenario, setup, plan))
        return out / "report.html"

    monkeypatch.setattr(demo_command, "run_demo", remember)
    assert cli.main(["demo", "--scenario=cube", f"--out={tmp_path}"]) == 0
    assert cli.main(["demo", "--scenario=cube", "--plan.temperatures=2", "--setup.training_seeds=1"]) == 0
    assert cli.main(["demo", "--scenario=cub"]) == 2
    (scenario, _, first), (_, setup, second) = plans
    assert first.temperatures == scenario.temperatures and first.candidates == scenario.candidates
    assert second.temperatures == (2.0,) and setup.training_seeds == 1
    assert "results.json" in capsys.readouterr().out


def test_the_command_is_installed_with_the_package():
    setup = (Path(__file__).resolve().parents[1] / "setup.py").read_text()
    assert "robot-value = robot_value.cli:main" in setup
