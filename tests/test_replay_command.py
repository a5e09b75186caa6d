"""`robot-value replay`: from a log and checkpoints to a page, results and tables, going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from recorded import assert_same, make_episode, make_spec
from replayed import synthetic

from robot_value import cli
from robot_value.commands.replay import chosen
from robot_value.episodes import EpisodeStore
from robot_value.flags import FlagError
from robot_value.ope.chunks import Target
from robot_value.replay import diagnoses, results, run, tables
from robot_value.replay.logs import SourceLog
from robot_value.replay.moments import Mark as Moment
from robot_value.replay.replayed import TABLE
from robot_value.results_shape import InvalidResults

TINY = [
    "--training.steps=3",
    "--training.batch_size=16",
    "--training.progress=false",
    "--training.tensorboard=false",
    "--windowing.horizon=4",
]
FAST = ["--workers=0", "--progress=false", "--n=3", "--batch_size=4", "--evaluation=false"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A store of 12 episodes, a policy and two critics, made by the command; their folder."""
    out = tmp_path_factory.mktemp("lab")
    site = out / "site" / "mylab"
    site.mkdir(parents=True)
    (site / "__init__.py").touch()
    (site / "walk.py").write_text("from fleet_simulators import Config\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site.parent)
        robot = ["--robot.type=mylab.walk", "--robot.max_steps=10"]
        assert cli.main(["collect", *robot, "--episodes=12", "--workers=0", f"--out={out}/log"]) == 0
        for name, part in (
            ("policy", ["--policy.type=flow", "--policy.width=16", "--policy.depth=1"]),
            ("critic", ["--critic.type=iql", "--critic.hidden=[16]"]),
            ("other", ["--critic.type=iql", "--critic.hidden=[16]", "--critic.seed=1"]),
        ):
            train = ["train", f"--data={out}/log", *part, *TINY, f"--training.folder={out}/{name}"]
            assert cli.main(train) == 0
    return out


def replayed(lab, out, *more: str) -> int:
    models = [f"--policy={lab}/policy", f"--critic={lab}/critic", f"--critics={{other: {lab}/other}}"]
    return cli.main(["replay", f"{lab}/log", *models, f"--out={out}", *FAST, *more])


@pytest.fixture(scope="module")
def done(lab):
    assert replayed(lab, lab / "done") == 0
    return lab / "done"


@pytest.fixture
def quick(monkeypatch):
    """Without diagnoses: what is tested is the pass."""
    monkeypatch.setattr(run.diagnoses, "all_of", lambda *_: [])


def parts(out) -> list[str]:
    return sorted(path.name for path in (out / ".parts").iterdir())


def test_a_log_and_two_checkpoints_make_a_page_results_and_tables(lab, done):
    # mutation: the critics' order is lost; episodes are replayed twice
    found = json.loads((done / "results.json").read_text())
    results.validate(found)
    store = EpisodeStore.open(lab / "log")
    assert found["data"]["episodes"] == len(store) == 12 and list(found["critics"]) == ["main", "other"]
    assert found["data"]["steps"] == sum(len(episode) for episode in store)
    assert found["arm"]["n"] == 3 and found["settings"]["execute"] == 4 and found["reproduced"]["compared"] == 0
    assert {"warnings", "critics", "prediction", "policy", "counterfactual", "mining"} <= found["diagnoses"].keys()
    page = (done / "report.html").read_text()
    assert store.names()[11] in page and "<svg" in page and len(list((done / "data").iterdir())) == 12
    assert (done / "decisions.parquet").stat().st_size and (done / "episodes.parquet").stat().st_size


def test_an_interrupted_replay_goes_on_where_it_stopped(lab, done, quick, monkeypatch, capsys):
    # mutation: parts are kept only when all are there; a part's name does not say which episodes
    monkeypatch.setattr(run, "PART", 4)
    played, real = [], run.replay

    def interrupted(*words, numbers, **named):
        played.append(list(numbers))
        if len(played) == 2:
            raise KeyboardInterrupt
        return real(*words, numbers=numbers, **named)

    monkeypatch.setattr(run, "replay", interrupted)
    assert replayed(lab, lab / "again") == 130 and "run the same command again" in capsys.readouterr().err
    assert len(parts(lab / "again")) == 1 and not (lab / "again" / "report.html").exists()
    assert replayed(lab, lab / "again") == 0
    assert played == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7], [8, 9, 10, 11]]
    whole = tables.load(done / ".parts" / parts(done)[0])
    kept = [tables.load(lab / "again" / ".parts" / name) for name in parts(lab / "again")]
    found = run.join(sorted(kept, key=lambda part: part.episodes[0].name))
    for name in ("episode", *TABLE):
        assert_same(getattr(found, name), getattr(whole, name))
    for critic in whole.opinions:
        assert_same(vars(found.opinions[critic]), vars(whole.opinions[critic]))


def test_the_same_command_again_replays_nothing_and_another_one_everything(lab, done, quick, monkeypatch):
    # mutation: N, the critic or the seed are not in a part's name
    assert replayed(lab, lab / "changing") == 0
    before = parts(lab / "changing")
    with monkeypatch.context() as patch:
        patch.setattr(run, "replay", lambda *_, **__: pytest.fail("replayed again"))
        assert replayed(lab, lab / "changing") == 0
    assert parts(lab / "changing") == before == parts(done)
    assert replayed(lab, lab / "changing", "--seed=7") == 0
    assert len(parts(lab / "changing")) == 1 and parts(lab / "changing") != before


def test_a_subset_every_step_and_without_tables(lab, quick, tmp_path):
    # mutation: --every is ignored
    assert replayed(lab, tmp_path, "--episodes=2..6", "--every=1", "--tables=false") == 0
    found, store = json.loads((tmp_path / "results.json").read_text()), EpisodeStore.open(lab / "log")
    steps = sum(len(store.read(name)) for name in store.names()[2:6])
    assert (
        found["data"]["steps"] == found["data"]["decisions"] == steps and not (tmp_path / "episodes.parquet").exists()
    )


def test_a_dataset_of_another_format_is_replayed_as_it_is(lab, quick, tmp_path):
    # mutation: --source is not looked at
    store = EpisodeStore.open(lab / "log")
    assert cli.main(["data", "pack", f"{lab}/log", f"{tmp_path}/packed.zarr", "--progress=false"]) == 0
    (tmp_path / "spec.json").write_text(json.dumps(store.spec.to_json()))
    models = [f"--policy={lab}/policy", f"--critic={lab}/critic", f"--source.spec={tmp_path}/spec.json"]
    command = [
        "replay",
        f"{tmp_path}/packed.zarr",
        *models,
        f"--source.hz={1 / store.spec.dt}",
        f"--out={tmp_path}/out",
    ]
    assert cli.main([*command, *FAST]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["data"]["steps"] == sum(len(episode) for episode in store)


def test_rerun_files_are_made_of_as_many_episodes_as_asked(lab, quick, tmp_path, monkeypatch):
    # mutation: files of all episodes; an earlier command's files stay
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (pip install 'robot_value[view]')")
    for count in (3, 1):
        assert replayed(lab, tmp_path, f"--rerun={count}", "--episodes=..4") == 0
        assert len(list((tmp_path / "rerun").iterdir())) == count
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "rerun" else True)
    assert replayed(lab, tmp_path, "--rerun=1") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--critic=x"], "expected one dataset, got 0"),
        (["a", "b", "--critic=x"], "expected one dataset, got 2"),
        (["LOG", "--critic=x"], "--policy: expected the folder of a checkpoint"),
        (["LOG", "--policy=x"], "--critic: expected the folder of a checkpoint"),
        (["LOG", "--policy=x", "--critic=x", "--episodes=nobody"], "no episode called 'nobody'"),
        (["NOTHING", "--policy=x", "--critic=x"], "NOTHING: expected a dataset"),
    ],
)
def test_what_is_missing_is_said_in_one_line(lab, words, message, capsys):
    words = [f"{lab}/log" if word == "LOG" else word for word in words]
    assert cli.main(["replay", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_episodes_are_chosen_by_a_range_or_by_name_in_the_log_s_order():
    names = ["a", "b", "c", "d"]
    assert chosen(names, "") == ("a", "b", "c", "d") and chosen(names, "1..3") == ("b", "c")
    assert chosen(names, "2..") == ("c", "d") and chosen(names, "..1") == ("a",) and chosen(names, "d, b") == ("b", "d")
    with pytest.raises(FlagError, match="did you mean 'walk_1'"):
        chosen(["walk_1", "run_1"], "walk_2")


def test_results_that_lack_something_are_refused_with_everything_that_is_wrong(done):
    # mutation: NaN is written; a newer format is read
    found = json.loads((done / "results.json").read_text())
    wrong = found | {"policy": 3, "findings": "none"}
    with pytest.raises(InvalidResults, match=r"results.policy: expected str.*results.findings: expected list"):
        results.validate(wrong)
    with pytest.raises(InvalidResults, match="expected at most 1, got 2"):
        results.validate(found | {"format_version": 2})
    with pytest.raises(InvalidResults, match="expected a finite number or null"):
        results.validate(found | {"seconds": {"total": float("nan")}})


def test_the_log_s_own_seed_is_used_where_it_was_decided():
    # mutation: always 0
    decided, undecided = (make_episode(make_spec(), decisions=n) for n in (1, 0))
    decided = replace(decided, decisions=(replace(decided.decisions[0], seed=41),))
    logs = [
        SourceLog(SimpleNamespace(survey=SimpleNamespace(keys=("e",)), read=lambda _, e=e: e))
        for e in (decided, undecided)
    ]
    assert [run.logged_seed(log, ["e"]) for log in logs] == [41, 0]


def test_the_longest_episode_is_the_time_limit_of_the_estimate(monkeypatch):
    # mutation: rewards are estimated though success is known
    asked = []
    monkeypatch.setattr(diagnoses.estimate, "evaluate", lambda _, target: asked.append(target))
    found = synthetic(episodes=6)
    with pytest.raises(AttributeError):
        diagnoses.of_evaluation(found)
    assert asked == [Target("success", limit=max(episode.steps for episode in found.episodes))]


def test_decisions_that_say_nothing_about_a_policy_s_success_are_a_sentence_and_no_error():
    # mutation: the command ends in ope's error
    found = synthetic(episodes=6)  # decisions every 2 steps: of episodes that go on for long none is 5 later
    longer = tuple(replace(e, steps=99, rewards=np.zeros(99, np.float32)) for e in found.episodes)
    (section,) = diagnoses.of_evaluation(replace(found, execute=5, episodes=longer)).sections
    assert section.lines[0].startswith("Not estimated: expected a decision at step 0") and not section.figures


def test_moments_are_named_kind_by_kind_the_first_of_each_first():
    # mutation: sorted by scores that do not compare
    marks = [Moment(kind, "episode_0001", step, 0.0, 1.0) for kind, step in (("worse", 2), ("worse", 4), ("action", 6))]
    named = diagnoses._marks(synthetic(episodes=3), marks)
    assert [mark.step for mark in named] == [2, 6, 4] and {mark.episode for mark in named} == {1}
