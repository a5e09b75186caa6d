"""Flags come from dataclasses; wrong ones are answered with the closest match and the list."""

from dataclasses import dataclass
from typing import Any

import pytest

from robot_value import flags
from robot_value.components import UnknownComponent


@dataclass(frozen=True)
class Command:
    """What the command does."""

    episodes: int = 3  # how many, count
    verbose: bool = False  # say more
    names: tuple[str, ...] = ()  # several words
    selector: Any = None  # how a candidate is picked


CHOICES = {"selector": flags.Choice("selectors", "argmax")}


def test_defaults_are_the_dataclass_defaults():
    parsed = flags.parse(Command, [], CHOICES)
    assert parsed.values.episodes == 3
    assert parsed.names == {"selector": "argmax"}


def test_values_and_component_flags_are_parsed():
    parsed = flags.parse(Command, ["--selector.type=softmax", "--selector.temperature=0.25", "--episodes=7"], CHOICES)
    assert parsed.names["selector"] == "softmax"
    assert parsed.values.selector.temperature == 0.25
    assert parsed.values.episodes == 7


def test_a_bare_boolean_flag_means_true():
    assert flags.parse(Command, ["--verbose"], CHOICES).values.verbose is True
    assert flags.parse(Command, ["--verbose", "--episodes=1"], CHOICES).values.verbose is True
    assert flags.parse(Command, ["--verbose", "false"], CHOICES).values.verbose is False


@pytest.mark.parametrize(
    "words", [["--names=a,b"], ["--names=[a,b]"], ["--names", "a", "b"], ["--names", "[a, b]"], ["--names", "a,b"]]
)
def test_lists_can_be_written_in_any_usual_way(words):
    assert flags.parse(Command, [*words, "--episodes", "2"], CHOICES).values.names == ("a", "b")


def test_a_single_word_is_a_list_of_one():
    assert flags.parse(Command, ["--names=agentview"], CHOICES).values.names == ("agentview",)
    assert flags.parse(Command, ["--names=[]"], CHOICES).values.names == ()


def test_negative_numbers_are_values():
    assert flags.parse(Command, ["--episodes", "-3"], CHOICES).values.episodes == -3


def test_an_unknown_component_names_the_closest_match_and_the_list():
    with pytest.raises(UnknownComponent, match=r"'argmx'; did you mean 'argmax'\? known: argmax, argmin, blended"):
        flags.parse(Command, ["--selector.type=argmx"], CHOICES)


def test_an_unknown_flag_names_the_closest_match():
    with pytest.raises(flags.FlagError, match="'episode'; did you mean 'episodes'"):
        flags.parse(Command, ["--episode=7"], CHOICES)


def test_a_flag_of_a_component_that_was_not_chosen_says_what_to_choose():
    with pytest.raises(flags.FlagError, match=r"needs --selector\.type first"):
        flags.parse(Command, ["--selector.temperature=1"], {"selector": flags.Choice("selectors", None)})


def test_a_value_of_the_wrong_type_is_one_clear_line():
    with pytest.raises(flags.FlagError, match=r"episodes.*'many'.*int"):
        flags.parse(Command, ["--episodes=many"], CHOICES)


def test_a_config_that_refuses_its_values_says_why():
    # mutation: draccus's "Couldn't instantiate class Config" alone
    with pytest.raises(flags.FlagError, match="no robosuite task called 'stack'; did you mean 'Stack'"):
        flags.parse(Robots, ["--robot.task=stack"], {"robot": flags.Choice("robots", "robosuite")})


@dataclass(frozen=True)
class Robots:
    """A command with a robot."""

    robot: Any = None  # the robot


def test_a_type_flag_without_a_name_lists_the_names():
    with pytest.raises(flags.FlagError, match=r"--selector\.type needs a name; known: argmax"):
        flags.parse(Command, ["--selector.type"], CHOICES)


def test_help_shows_meaning_and_default_of_every_flag(capsys):
    with pytest.raises(SystemExit) as done:
        flags.parse(Command, ["--selector.type=softmax", "--help"], CHOICES)
    text = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    assert "how many, count (default: 3)" in text
    assert "--selector.temperature" in text
    assert "--selector.type chooses one of: argmax" in text


def test_positional_words_come_first():
    assert flags.positional(["a", "b", "--x=1", "c"]) == (["a", "b"], ["--x=1", "c"])
