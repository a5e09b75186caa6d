"""Lines of a decision: colours by score, fans that keep every number's place, paths as the tool would go."""

import numpy as np
import pytest
from display_scene import N, expected
from hypothesis import given
from hypothesis import strategies as st

from robot_value.display.drawing import BEST, CHOSEN, HEIGHT, UNSCORED, WORST, Arm, Fans, colours, paths, strokes
from robot_value.display.shown import action_names
from robot_value.types import ActionPart, Spec

PLANAR = """
<robot name="planar">
  <link name="base"/><link name="upper"/><link name="tip"/>
  <joint name="j1" type="revolute"><parent link="base"/><child link="upper"/>
    <axis xyz="0 0 1"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
  <joint name="j2" type="prismatic"><parent link="upper"/><child link="tip"/><origin xyz="0.5 0 0"/>
    <axis xyz="1 0 0"/><limit lower="0" upper="1" effort="1" velocity="1"/></joint>
</robot>
"""
GRIPPER = ActionPart("gripper", 6, 7, "gripper", "1", (-1,), (1,))


def spec_of(*parts):
    return Spec(parts=parts, state_names=("a",), state_units=("rad",), dt=0.1)


def pose(unit="m+rad", frame="base", reference="current"):
    return ActionPart("arm", 0, 6, "pose", unit, (-1,) * 6, (1,) * 6, reference, "axis_angle", frame)


def chunks(n=3, horizon=4, dims=7, seed=0):
    return np.random.default_rng(seed).normal(size=(n, horizon, dims)).astype(np.float32)


@given(st.lists(st.one_of(st.integers(-20, 20).map(float), st.just(float("nan"))), max_size=8))
def test_the_best_score_is_green_the_worst_blue_and_what_was_not_scored_grey(scores):
    # mutation: rank NaN too; divide by zero where all are equal
    value, known = np.array(scores), [score for score in scores if score == score]
    found = colours(value)
    assert found.shape == (len(scores), 3) and found.dtype == np.uint8
    for score, colour in zip(scores, found.tolist(), strict=True):
        if score != score:
            assert tuple(colour) == UNSCORED
        elif len(set(known)) > 1 and score in (min(known), max(known)):
            assert tuple(colour) == (BEST if score == max(known) else WORST)


def test_what_is_drawn_are_candidates_but_for_refused_ones_and_the_chosen_chunk_on_top():
    # mutation: refused candidates drawn; colours of those before them; the chosen chunk first
    seen = expected()
    assert [len(strokes(shown)[0]) for shown in seen] == [N + 1, N, *[N + 1] * 6], "the second has a refused one"
    for shown in seen:
        drawn, painted = strokes(shown)
        colour = colours(shown.value).tolist()
        colour_of = {chunk.tobytes(): each for chunk, each in zip(shown.candidates, colour, strict=True)}
        np.testing.assert_array_equal(drawn[-1], shown.chunk)
        assert painted.dtype == np.uint8 and tuple(painted[-1]) == CHOSEN
        assert [colour_of[chunk.tobytes()] for chunk in drawn[:-1]] == painted[:-1].tolist()


def test_a_fan_holds_every_number_in_its_place_and_its_scale_never_shrinks():
    # mutation: x of candidates instead of steps; the scale of this decision alone; y pointing up
    spec, fans = spec_of(pose(), GRIPPER), Fans(spec_of(pose(), GRIPPER))
    wide, narrow = chunks(seed=1), 0.1 * chunks(seed=2)
    fans(wide)
    found = fans(narrow)
    low, high = np.minimum(wide.min((0, 1)), narrow.min((0, 1))), np.maximum(wide.max((0, 1)), narrow.max((0, 1)))
    assert found.shape == (len(action_names(spec)), 3, 4, 2)
    for a in range(7):
        for n in range(3):
            for h in range(4):
                x, y = found[a, n, h]
                assert x == h
                assert high[a] - y / (HEIGHT * 4) * (high[a] - low[a]) == pytest.approx(narrow[n, h, a], abs=1e-5)


def test_a_fan_of_one_value_is_a_flat_line():
    # mutation: 0 / 0
    found = Fans(spec_of(pose(), GRIPPER))(np.full((2, 4, 7), 0.25, np.float32))
    assert (found[..., 1] == 0).all()


@pytest.mark.parametrize("reference", ["previous", "current", "chunk_start", "absolute"])
@pytest.mark.parametrize(("unit", "scale"), [("m+rad", 1.0), ("0.05 m+0.5 rad", 0.05)])
def test_a_cartesian_chunk_leads_where_adding_its_steps_leads(reference, unit, scale):
    # mutation: cumsum for chunk_start; no scale; absolute targets from 0
    actions = chunks()
    (name, found), *rest = paths(spec_of(pose(unit, reference=reference), GRIPPER), actions).items()
    assert name == "arm" and not rest
    for n in range(3):
        where, expected = np.zeros(3), []
        for action in scale * actions[n, :, :3].astype(float):
            where = where + action if reference in ("previous", "current") else action
            expected.append(where)
        first = [] if reference == "absolute" else [np.zeros(3)]
        np.testing.assert_allclose(found[n], np.array(first + expected), atol=1e-6)


@pytest.mark.parametrize(
    "part",
    [
        pose(frame="tool"),
        pose(unit="1"),
        ActionPart("arm", 0, 6, "joint", "rad", (-1,) * 6, (1,) * 6),
        ActionPart("arm", 0, 6, "other", "m", (-1,) * 6, (1,) * 6),
        ActionPart("arm", 0, 6, "position", "m", (-1,) * 6, (1,) * 6),
    ],
    ids=["turning with the tool", "no metres", "joints", "nobody knows", "two arms in one part"],
)
def test_a_part_whose_path_nobody_knows_has_none(part):
    # mutation: draw the first three dims whatever they are
    assert paths(spec_of(part, GRIPPER), chunks()) == {}


def test_a_joint_space_chunk_leads_where_the_arms_model_says(tmp_path):
    # mutation: the first joints of the action, a gripper's among them
    (tmp_path / "arm.urdf").write_text(PLANAR)
    grip = ActionPart("gripper", 0, 1, "gripper", "1", (-1,), (1,))
    spec = spec_of(grip, ActionPart("arm", 1, 3, "joint", "rad", (-3, 0), (3, 1)))
    kinematics = Arm(str(tmp_path / "arm.urdf"), "tip", ("j1", "j2")).kinematics(spec)
    actions = chunks(dims=3)
    found = paths(spec, actions, kinematics)["joints"]
    turn, reach = actions[..., 1], 0.5 + actions[..., 2]
    expected = np.stack([reach * np.cos(turn), reach * np.sin(turn), 0 * turn], -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_arm_needs_a_name_for_every_joint_of_the_action(tmp_path):
    # mutation: zip without a check
    spec = spec_of(ActionPart("arm", 0, 2, "joint", "rad", (-3, 0), (3, 1)))
    assert Arm().kinematics(spec) is None
    with pytest.raises(ValueError, match=r"arm.joints: expected 2 names, .* got 1: \['j1'\]"):
        Arm("arm.urdf", "tip", ("j1",)).kinematics(spec)
