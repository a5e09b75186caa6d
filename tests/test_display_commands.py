"""Commands with a display: every decision that was asked for is shown, and nothing else changes."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from fakes import HomingCritic, HomingPolicy, Notebook, PointMass, point_spec
from online_fakes import Here, PointConfig, save_models
from recorded import make_episode, make_spec

from robot_value import components, flags
from robot_value.arms import MAIN
from robot_value.commands import evaluate, replay
from robot_value.commands._arm import DISPLAY
from robot_value.components import UnknownComponent
from robot_value.display import foxglove, rerun
from robot_value.display.display import Display
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.loop import run_episodes
from robot_value.online import learning
from robot_value.online.acting import Acting
from robot_value.online.backends import _own
from robot_value.online.learning import OnlineJob, Schedule, train_online
from robot_value.playing import Models, Site, play_all
from robot_value.replay import run
from robot_value.replay.decided import Kept
from robot_value.replay.logged_robot import LoggedRobot
from robot_value.replay.scribe import replay as one_pass
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer

CHOICES = {**DISPLAY, "robot": flags.Choice("robots", "robosuite")}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


@dataclass(frozen=True)
class Note:
    """A display that writes what it shows as JSON lines."""

    to: str = ""
    said: list = field(default_factory=list, compare=False)  # names it was opened with

    def check(self) -> None:
        """It can always be opened."""

    def build(self, spec, name):
        self.said.append(name)
        return Display(Lines(self.to), spec.dt)


@dataclass
class Lines:
    to: str
    lines: list = field(default_factory=list)

    def write(self, shown):
        self.lines.append(json.dumps([shown.episode, shown.step, shown.value.tolist(), shown.index]))

    def close(self):
        with open(self.to, "w") as file:
            file.write("\n".join(self.lines))


def shown(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- flags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--display=rerun"], ["--display", "rerun"], ["--display.type=rerun"]])
def test_a_display_is_chosen_in_one_word_and_configured_by_its_own_flags(words):
    # mutation: only --display.type
    parsed = flags.parse(evaluate.Evaluate, [*words, "--display.to=look.rrd", "--display.arm.joints=a,b"], CHOICES)
    assert parsed.names["display"] == "rerun"
    assert parsed.values.display == rerun.Config(to="look.rrd", arm=replace(rerun.Arm(), joints=("a", "b")))
    assert flags.parse(evaluate.Evaluate, [], CHOICES).values.display is None


def test_a_wrong_display_is_answered_with_the_closest_and_the_list():
    # mutation: handed on to draccus, which looks for a file
    with pytest.raises(UnknownComponent, match=r"did you mean 'rerun'.* known: foxglove, rerun"):
        flags.parse(replay.Replay, ["--display=rerunn"], DISPLAY)
    with pytest.raises(flags.FlagError, match=r"expected a file \*.rrd"):
        flags.parse(replay.Replay, ["--display=rerun", "--display.to=look.mcap"], DISPLAY)


def test_both_displays_are_components_with_the_same_flags():
    # mutation: another name for the same flag
    assert components.names("displays") == ["foxglove", "rerun"]
    assert [set(flags.flag_types(module.Config)) for module in (foxglove, rerun)] == [
        {"to", "address", "robots", "arm", "arm.model", "arm.tool", "arm.joints"}
    ] * 2


# -- evaluate ----------------------------------------------------------------------------------------------------------


def test_the_arm_that_is_shown_is_played_here_and_all_arms_play_what_they_play_unseen(models, tmp_path):
    # mutation: only the first wave shown; the kept episodes of the shown arm forgotten; another training seed
    note, here, alone = Note(str(tmp_path / "look")), Here(), Here()
    trained = [Models(i, Path(models[0]), {MAIN: Path(models[1])}) for i in range(2)]
    arms = [Arm("base"), Arm("yours", "argmax", n=3, critic=MAIN)]
    words = (Site(PointConfig(), 2, 0), trained, arms, (1, 2, 3), 0, (1, 3))
    (seen, kept), (unseen, also) = play_all(here, *words, shown=("yours", note)), play_all(alone, *words)
    for name in ("base", "yours"):
        np.testing.assert_array_equal(seen.result(name).steps, unseen.result(name).steps)
        assert kept[name].keys() == also[name].keys() == {1, 3}
    assert note.said == ["yours"] and len(alone.calls) - len(here.calls) == 2, "two waves were not sent away"
    told = [
        [seed, int(each.start_step[0]), each.value[0].tolist(), int(each.index[0])]
        for seed in (1, 3)  # the first robot of both waves
        for each in kept["yours"][seed].decisions
    ]
    assert shown(tmp_path / "look") == told


# -- train online ------------------------------------------------------------------------------------------------------


def test_a_run_that_is_shown_learns_the_same_and_every_round_has_its_file(models, tmp_path, monkeypatch):
    # mutation: trials shown too; one file for all rounds; the display in the way of the recorder
    monkeypatch.setattr(learning, "write_page", lambda *_: None)
    runs = {}
    for name, display in (("seen", Note(str(tmp_path / "look.txt"))), ("unseen", None)):
        schedule = Schedule(
            folder=str(tmp_path / name), episodes=4, per_round=2, ratio=0.25, batch_size=16, evaluate_every=2,
            evaluate_episodes=2, progress=False, tensorboard=False, device="cpu",
        )  # fmt: skip
        arm = Arm("online", "argmax", n=3, critic=MAIN)
        job = OnlineJob(PointConfig(), *models, arm=arm, schedule=schedule, batch_size=2, display=display)
        train_online(job, Here())
        store = EpisodeStore.open(tmp_path / name / "episodes")
        runs[name] = [store.read(each) for each in store.names()]
    for a, b in zip(runs["seen"], runs["unseen"], strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
    files = sorted(path.name for path in tmp_path.glob("look*"))
    assert files == ["look_round_0001.txt", "look_round_0002.txt"]
    for number, file in enumerate(files, 1):
        mine = [e for e in runs["seen"] if e.provenance["round"] == number][:1]
        told = [[e.provenance["seed"], int(d.start_step[0]), d.value[0].tolist()] for e in mine for d in e.decisions]
        assert [each[:3] for each in shown(tmp_path / file)] == told


def test_of_several_actors_the_first_is_shown(tmp_path):
    # mutation: all of them write one file
    acting = Acting(Site(PointConfig()), Arm("online"), tmp_path / "episodes", 0, display=Note())
    assert [_own(acting, k, 3).display is not None for k in range(3)] == [True, False, False]
    assert _own(acting, 0, 1).display is not None


# -- replay ------------------------------------------------------------------------------------------------------------


def test_a_replay_that_is_shown_shows_every_decision_of_the_pass():
    # mutation: only the scribe looks on
    spec, notebook = point_spec(horizon=4, n_obs_steps=1), Notebook()
    run_episodes(
        PointMass(max_steps=12, n_obs_steps=1), Steerer(HomingPolicy(spec)), watchers=(notebook,), seeds=range(3)
    )
    log = Kept({f"episode_{i}": episode for i, episode in enumerate(notebook.episodes)})
    steerer = Steerer(HomingPolicy(spec), critic=HomingCritic(spec), selector=argmax.Config().build(), n=3, execute=4)
    seen = Notebook(wants_episodes=False)
    found = one_pass(LoggedRobot(log, batch_size=1), steerer, progress=False, watchers=(seen,))
    assert len(found) == len(seen.decisions) > 3
    np.testing.assert_array_equal(found.candidates, np.concatenate([made.candidates for _, made, _ in seen.decisions]))


def test_the_replay_command_opens_the_display_once_for_the_whole_pass(tmp_path, monkeypatch):
    # mutation: opened for every part; never closed
    note, asked = Note(str(tmp_path / "look")), []

    def pass_of(job, log, folder, watching, progress, watchers):
        asked.extend(watchers)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(run, "play", pass_of)
    log = Kept({"a": make_episode(make_spec(), 5, 0)})
    job = replace(run.Job(lambda: log, ("a",), None, None), workers=0)
    with pytest.raises(RuntimeError, match="seen enough"):
        run.write(job, tmp_path, display=note)
    assert note.said == ["replay"] and isinstance(asked[0], Display) and (tmp_path / "look").exists()
