"""Subgoals are the corners of a path, whatever measures it."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from recorded import make_episode, make_spec
from replayed import synthetic

from robot_value.replay.subgoals import Config, of_episode, of_replayed, subgoals

CORNERS = np.array([[0, 0], [1, 0], [0.2, 0.3], [1.1, 0.6]])  # sharp turns: the way to the next leads back


def path(corners=CORNERS, steps=20, noise=0.0, wait=0):
    """float64[F, 2], `steps` between two corners, standing `wait` frames at each; the corners' last frames."""
    legs = [np.linspace(a, b, steps, endpoint=False) for a, b in itertools.pairwise(corners)]
    held = [np.concatenate([np.repeat(leg[:1], wait, 0), leg]) for leg in legs]
    found = np.concatenate([*held, corners[-1:]])
    return found + np.random.default_rng(0).normal(0, noise, found.shape)


def test_the_corners_of_a_path_are_its_subgoals():
    assert subgoals(path(), tolerance=0).tolist() == [20, 40, 60]  # mutation: h for h + 1, forgetting the last frame


def test_a_straight_path_has_one_subgoal_its_end():
    assert subgoals(path(CORNERS[:2])).tolist() == [20]


def test_noise_below_the_tolerance_makes_no_subgoals():
    found = subgoals(path(noise=0.03), tolerance=0.1)
    np.testing.assert_allclose(found, [20, 40, 60], atol=3)
    assert len(subgoals(path(noise=0.03), tolerance=0, shortest=1)) > 3


def test_standing_still_is_no_subgoal():
    np.testing.assert_allclose(subgoals(path(wait=10)), [30, 60, 90], atol=10)


def test_subgoals_are_at_least_the_shortest_apart():
    found = subgoals(np.random.default_rng(0).normal(size=(200, 3)), tolerance=0, shortest=7)
    assert found[0] >= 7 and np.diff(found).min() >= 7 and found[-1] == 199  # mutation: found[-1] for goal


@pytest.mark.parametrize("frames", [1, 2])
def test_an_episode_of_one_or_two_frames_has_its_end(frames):
    assert subgoals(np.arange(frames)[:, None] * 1.0).tolist() == [frames - 1]


def test_states_are_compared_in_their_ranges():
    """A dimension in millimetres counts as one in metres; one that never moves not at all."""
    states = np.concatenate([path() * [1, 1000], np.ones((61, 1))], 1).astype(np.float32)
    episode = make_episode(make_spec(), 60, states=states)
    expected = subgoals(path() / np.ptp(path(), axis=0))
    np.testing.assert_array_equal(of_episode(episode), expected)


def test_images_are_compared_as_the_users_function_sees_them(monkeypatch):
    spec = make_spec(cameras=("front",))
    episode = make_episode(spec, 60)
    monkeypatch.setitem(sys.modules, "my_eyes", SimpleNamespace(look=lambda images: path()[: len(images)]))
    assert of_episode(episode, Config(embed="my_eyes:look", tolerance=0)).tolist() == [20, 40, 60]
    with pytest.raises(ValueError, match="cameras"):
        of_episode(make_episode(make_spec(), 60), Config(embed="my_eyes:look"))


def test_a_replayed_log_is_cut_at_its_decisions():
    log = synthetic(2, steps=(20, 24), success=0.0)  # two failures of 24 steps, 12 decisions each
    states = np.tile(path(CORNERS[:3], steps=6)[:12], (2, 1)).astype(np.float32)
    found = of_replayed(replace(log, columns={"state": states}), Config(tolerance=0))
    assert [each.tolist() for each in found] == [[12, 22], [12, 22]]  # control steps, not decisions
    with pytest.raises(ValueError, match="States"):
        of_replayed(replace(log, columns={}))
