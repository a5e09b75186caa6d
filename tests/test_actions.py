"""An action rewritten is the same motion: closed forms, round trips to 1e-6, refusal of what cannot be rewritten."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robot_value import rotations
from robot_value.actions import convert
from robot_value.types import ActionPart, Spec, SpecMismatch

REFERENCES = ("absolute", "previous", "current", "chunk_start")
KINDS = ("axis_angle", "quaternion", "6d")


def spec(*parts, dt=0.05):
    """A Spec from (kind, size, {field: value}) triples; limits play no part except for grippers."""
    made, start = [], 0
    for i, (kind, size, fields) in enumerate(parts):
        fields = {"unit": "m+rad" if kind == "pose" else "rad", "low": (-9,) * size, "high": (9,) * size} | fields
        made.append(ActionPart(fields.pop("name", f"part{i}"), start, start + size, kind, **fields))
        start += size
    return Spec(tuple(made), (), (), dt)


def pose(rotation="axis_angle", reference="absolute", frame="base", **fields):
    size = 3 + rotations.SIZES[rotation]
    return ("pose", size, {"rotation": rotation, "reference": reference, "frame": frame} | fields)


def gripper(sign=-1, unit="1", low=0.0, high=1.0, **fields):
    return ("gripper", 1, {"sign": sign, "unit": unit, "low": (low,), "high": (high,)} | fields)


def angle_between(a, b, kind):
    """rad, between rotations written as `kind`; independent of how each is written."""
    a, b = (Rotation.from_quat(rotations.decode(x, kind).reshape(-1, 4)) for x in (a, b))
    return (a.inv() * b).magnitude().max()


angles = st.one_of(
    st.floats(0, np.pi),
    st.sampled_from([0.0, 1e-12, 1e-7, np.pi, np.pi - 1e-12, np.pi - 1e-7, np.pi - 1e-3, np.pi / 2]),
)
axes = st.one_of(
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3),
    st.sampled_from([(1.0, 0, 0), (0, 0, -1.0), (-1.0, 0, 0), (1.0, 1.0, 0)]),
)
turns = st.builds(lambda axis, angle: np.array(axis) / np.linalg.norm(axis) * angle, axes, angles)


# mutation: in rotations.encode "6d" drop `.transpose(0, 2, 1)` -> rows instead of columns, this fails.
@settings(max_examples=200, deadline=None)
@given(st.lists(turns, min_size=1, max_size=4), st.sampled_from(KINDS), st.sampled_from(KINDS), st.booleans())
def test_rotation_kinds_round_trip_also_near_pi_near_zero_and_for_both_signs_of_a_quaternion(rotvecs, via, end, negate):
    start = np.array(rotvecs)
    there = rotations.encode(rotations.decode(start, "axis_angle"), via)
    assert there.shape == (len(start), rotations.SIZES[via])
    if via == "quaternion":
        assert (there[:, 3] >= 0).all()
        there = -3.0 * there if negate else there  # q and -q are one rotation; length does not matter
    back = rotations.encode(rotations.decode(rotations.encode(rotations.decode(there, via), end), end), "axis_angle")
    assert angle_between(start, back, "axis_angle") < 1e-6
    ordinary = np.linalg.norm(start, axis=1) < np.pi - 1e-6  # at pi, +pi and -pi are one rotation
    np.testing.assert_allclose(back[ordinary], start[ordinary], atol=1e-6)


# mutation: in rotations.decode swap `x, y` in _gram_schmidt's stack -> this fails.
def test_each_rotation_kind_means_what_its_name_says():
    quarter = rotations.decode(np.array([0, 0, np.pi / 2]), "axis_angle")  # x -> y, y -> -x
    np.testing.assert_allclose(quarter, [0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-12)  # x y z w
    np.testing.assert_allclose(rotations.encode(quarter, "6d"), [0, 1, 0, -1, 0, 0], atol=1e-12)  # columns
    np.testing.assert_allclose(rotations.decode(np.array([0, 2.0, 0, -1, 5.0, 0]), "6d"), quarter, atol=1e-12)


# mutation: in actions._apply compose tool deltas on the left -> this fails.
def test_pose_deltas_compose_as_rotations_in_the_base_or_the_tool_frame():
    turned = np.array([1.0, 2, 3, 0, 0, np.pi / 2])  # the tool's x is the base's y
    delta = np.array([[0.1, 0, 0, np.pi / 2, 0, 0]])
    z90, x90 = Rotation.from_rotvec([0, 0, np.pi / 2]), Rotation.from_rotvec([np.pi / 2, 0, 0])
    for frame, place, turn in (("base", [1.1, 2, 3], x90 * z90), ("tool", [1, 2.1, 3], z90 * x90)):
        got = convert(delta, spec(pose(reference="chunk_start", frame=frame)), spec(pose()), current=turned)
        np.testing.assert_allclose(got[0, :3], place, atol=1e-12)
        assert angle_between(got[:, 3:], turn.as_rotvec()[None], "axis_angle") < 1e-12


def test_joint_references_are_sums_and_differences():
    targets = np.array([[1.0], [3.0], [2.0]])
    absolute = spec(("joint", 1, {}))
    known = {"current": np.array([0.5]), "previous": np.array([0.25]), "measured": np.array([[0.5], [0.75], [2.5]])}
    for reference, expected in (
        ("previous", [0.75, 2, -1]),
        ("chunk_start", [0.5, 2.5, 1.5]),
        ("current", [0.5, 2.25, -0.5]),
    ):
        relative = spec(("joint", 1, {"reference": reference}))
        deltas = convert(targets, absolute, relative, **known)
        np.testing.assert_allclose(deltas[:, 0], expected)
        np.testing.assert_allclose(convert(deltas, relative, absolute, **known), targets)
    # without a previous target, the arm is taken to be where it was told to be
    first = convert(targets, absolute, spec(("joint", 1, {"reference": "previous"})), current=np.array([0.5]))
    assert first[0, 0] == 0.5


writing = st.tuples(st.sampled_from(KINDS), st.sampled_from(REFERENCES), st.sampled_from(["base", "tool", "local"]))


# mutation: in actions._difference drop `rotations.rotate(back, step)` -> this fails.
# mutation: in actions._relative use `reference` without shifting for "previous" -> this fails.
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), angles, writing, st.integers(1, 5), st.booleans())
def test_two_arms_with_grippers_round_trip_through_any_writing(seed, angle, written, horizon, lead):
    kind, reference, frame = written
    frame = "base" if reference == "absolute" else frame
    source = spec(pose(), gripper(), pose(), gripper(), ("joint", 2, {}))
    target = spec(
        pose(kind, reference, frame),
        gripper(sign=1, low=-1, high=1, reference=reference),
        pose("quaternion"),
        gripper(unit="m", low=0.0, high=0.08, width=0.08),
        ("joint", 2, {"reference": reference}),
    )

    rng = np.random.default_rng(seed)

    def pose_now():
        axis = rng.normal(size=3)
        return np.concatenate(
            [rng.uniform(-2, 2, 3), axis / np.linalg.norm(axis) * rng.choice([angle, rng.uniform(0, 3)])]
        )

    def draw(n):
        return np.array([[*pose_now(), rng.random(), *pose_now(), 0.25, *rng.normal(size=2)] for _ in range(n)])

    chunk, measured, ends = draw(horizon), draw(horizon), draw(2)
    if lead:  # batch and candidates in front; anchors of every robot alike
        chunk = np.broadcast_to(chunk, (2, 3, *chunk.shape)).copy()
    known = {"current": ends[0], "previous": ends[1], "measured": measured}
    there = convert(chunk, source, target, **known)
    assert there.shape == (*chunk.shape[:-1], target.action_dim)
    in_target = {  # the anchors, written as the target's absolute actions
        name: convert(np.atleast_2d(rows), source, absolute(target), **known).reshape(*rows.shape[:-1], -1)
        for name, rows in known.items()
    }
    back = convert(there, target, source, **in_target)
    for cut in (slice(3, 6), slice(10, 13)):
        assert angle_between(back[..., cut], chunk[..., cut], "axis_angle") < 1e-6
    rest = np.r_[0:3, 6:10, 13:16]
    np.testing.assert_allclose(back[..., rest], chunk[..., rest], atol=1e-6)


def absolute(target):
    parts = tuple(replace(p, reference="absolute", frame="base") for p in target.parts)
    return replace(target, parts=parts)


def test_grippers_turn_sign_and_unit_by_their_travel():
    opening = np.array([[0.0], [0.25], [1.0]])  # 0 closed, 1 open
    share = spec(gripper())
    for target, expected in (
        (spec(gripper(sign=1)), [1, 0.75, 0]),
        (spec(gripper(sign=1, low=-1, high=1)), [1, 0.5, -1]),
        (spec(gripper(unit="m", high=0.05, width=0.08)), [0, 0.02, 0.08]),
        (spec(gripper(unit="m", high=0.08)), [0, 0.02, 0.08]),
    ):
        got = convert(opening, share, target)
        np.testing.assert_allclose(got[:, 0], expected, atol=1e-12)
        np.testing.assert_allclose(convert(got, target, share), opening, atol=1e-12)


def test_a_rotation_kind_alone_needs_no_anchors_even_for_deltas():
    source, target = spec(pose(reference="previous", frame="tool")), spec(pose("6d", "previous", "local"))
    chunk = np.array([[0.1, 0, 0, 0.1, 0.2, 0.3]])
    there = convert(chunk, source, target)
    np.testing.assert_allclose(there[:, :3], chunk[:, :3])
    np.testing.assert_allclose(convert(there, target, source), chunk, atol=1e-12)


def test_a_rotation_part_without_a_position_works_in_both_frames():
    delta = np.array([[0.3, 0, 0]])
    start = np.array([0, 0.4, 0])
    end = spec(("rotation", 3, {"rotation": "axis_angle"}))
    for frame in ("base", "tool"):
        fields = {"rotation": "axis_angle", "reference": "chunk_start", "frame": frame}
        relative = spec(("rotation", 3, fields))
        there = convert(delta, relative, end, current=start)
        np.testing.assert_allclose(convert(there, end, relative, current=start), delta, atol=1e-12)


def test_torch_and_float32_chunks_stay_what_they_are():
    source, target = spec(pose()), spec(pose("6d"))
    chunk = torch.randn(2, 4, 6)
    got = convert(chunk, source, target)
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float32 and got.shape == (2, 4, 9)
    assert convert(chunk.numpy(), source, target).dtype == np.float32
    np.testing.assert_allclose(got.numpy(), convert(chunk.numpy(), source, target))
    assert convert(np.zeros((1, 6), int), source, target).dtype.kind == "f"


JOINT, ARM = spec(("joint", 2, {})), spec(pose())


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (JOINT, spec(("joint", 2, {"name": "x"})), r"action parts: expected \('part0',\), got \('x',\)"),
        (JOINT, spec(("joint", 2, {}), dt=0.1), "dt: expected 0.05, got 0.1"),
        (JOINT, spec(("other", 2, {})), "part0.kind: expected 'joint', got 'other'"),
        (JOINT, spec(("joint", 3, {})), "part0 dims: expected 2, got 3"),
        (JOINT, spec(("joint", 2, {"unit": "m"})), "part0.unit: expected 'rad', got 'm'"),
        (JOINT, spec(("joint", 2, {"frame": "x"})), "part0.frame: expected 'base', got 'x'"),
        (ARM, spec(pose(frame="camera")), "part0.frame: expected 'base', got 'camera'"),
        (ARM, spec(pose(frame="tool")), "part0.frame: expected a fixed frame for absolute poses, got 'tool'"),
        (ARM, spec(("pose", 6, {})), "part0.rotation: expected one of axis_angle, quaternion, 6d, got 'none'"),
        (ARM, spec(("pose", 6, {"rotation": "6d"})), "part0 dims for 6d: expected 9, got 6"),
        (
            spec(("position", 3, {"frame": "tool", "reference": "previous"})),
            spec(("position", 3, {"frame": "tool"})),
            "part0.reference: expected 'previous', got 'absolute'",
        ),
        (spec(gripper(width=0.08)), spec(gripper(width=0.1)), "part0.width: expected 0.08, got 0.1"),
        (spec(gripper(unit="rad")), spec(gripper()), "part0.unit: expected 'rad', got '1'"),
        (spec(gripper(unit="m")), spec(gripper(unit="m", high=0.5)), r"part0 travel in m: expected \(0.0, 1.0\)"),
    ],
)
def test_what_no_rewriting_can_bridge_is_refused_naming_field_expected_and_got(source, target, message):
    with pytest.raises(SpecMismatch, match=message):
        convert(np.zeros((1, source.action_dim)), source, target)


@pytest.mark.parametrize(
    ("target", "chunk", "known", "message"),
    [
        (pose("6d", "previous"), np.zeros((2, 6)), {}, "with reference 'previous': expected 'previous', got nothing"),
        (pose("6d", "current"), np.zeros((2, 6)), {"current": np.zeros(6)}, "expected 'measured', got nothing"),
        (pose("6d"), np.zeros((2, 5)), {}, r"chunk: expected \['...', 'H', 6\], got \[2, 5\]"),
        (pose("6d"), np.zeros(6), {}, "chunk: expected"),
        (pose("6d", "chunk_start"), np.zeros((2, 6)), {"current": np.zeros(5)}, r"current: expected \['...', 6\]"),
        (pose("6d"), np.full((2, 6), np.nan), {}, "chunk: expected finite numbers"),
    ],
)
def test_missing_or_bad_numbers_are_refused(target, chunk, known, message):
    with pytest.raises(ValueError, match=message):
        convert(chunk, ARM, spec(target), **known)


@pytest.mark.parametrize(("kind", "zero"), [("quaternion", [0.0] * 4), ("6d", [0.0] * 6), ("6d", [1.0, 0, 0] * 2)])
def test_numbers_that_are_no_rotation_are_refused(kind, zero):
    with pytest.raises(ValueError, match=f"rotation written as {kind}: expected non-zero, independent vectors"):
        rotations.decode(np.array(zero), kind)
