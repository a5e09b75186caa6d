"""The words of the contract: what differs is named, what is malformed is refused, what was written is read back."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.types import (
    KINDS,
    REFERENCES,
    ROTATIONS,
    ActionPart,
    Camera,
    Episode,
    Features,
    Observation,
    Outcome,
    Spec,
    SpecMismatch,
)

ARM = ActionPart("arm", 0, 2, "joint", "rad", (-1, -2), (1, 2))
GRIPPER = ActionPart("gripper", 2, 3, "gripper", "1", (0,), (1,), sign=-1, width=0.08)
SPEC = Spec((ARM, GRIPPER), ("q0", "q1"), ("rad", "rad"), 0.05, (Camera("wrist", 4, 6),), horizon=8, n_obs_steps=2)

limits = st.floats(-1e3, 1e3, width=32)


@st.composite
def specs(draw):
    parts, start = [], 0
    for i in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 3))
        low = tuple(draw(st.lists(limits, min_size=size, max_size=size)))
        part = ActionPart(
            f"part{i}",
            start,
            start + size,
            draw(st.sampled_from(KINDS)),
            draw(st.sampled_from(["rad", "m", "1"])),
            low,
            tuple(x + draw(st.floats(0.1, 10)) for x in low),
            draw(st.sampled_from(REFERENCES)),
            draw(st.sampled_from(ROTATIONS)),
            width=draw(st.sampled_from([None, 0.08])),
        )
        parts.append(part)
        start += size
    cameras = tuple(Camera(name, 8, 9) for name in draw(st.sets(st.sampled_from(["a", "b"]))))
    names = tuple(draw(st.lists(st.text(max_size=3), max_size=3)))
    return Spec(tuple(parts), names, ("rad",) * len(names), draw(st.floats(1e-3, 1)), cameras, draw(st.integers(0, 9)))


# mutation: in Spec.from_json leave the cameras as dicts -> this fails.
@settings(max_examples=100, deadline=None)
@given(specs())
def test_a_spec_survives_json_and_matches_itself(spec):
    back = Spec.from_json(json.loads(json.dumps(spec.to_json())))
    assert back == spec and hash(back) == hash(spec) and back.differences(spec) == []


# mutation: in Spec.differences skip any key -> this fails for its field.
@pytest.mark.parametrize(
    ("other", "line"),
    [
        (replace(SPEC, dt=0.02), "dt: expected 0.05, got 0.02"),
        (replace(SPEC, language=True), "language: expected False, got True"),
        (replace(SPEC, horizon=16), "horizon: expected 8, got 16"),
        (replace(SPEC, n_obs_steps=1), "n_obs_steps: expected 2, got 1"),
        (replace(SPEC, state_names=("q1", "q0")), "state_names: expected ('q0', 'q1'), got ('q1', 'q0')"),
        (replace(SPEC, state_units=("rad", "deg")), "state_units: expected ('rad', 'rad'), got ('rad', 'deg')"),
        (replace(SPEC, cameras=()), "cameras: expected ('wrist',), got ()"),
        (replace(SPEC, cameras=(Camera("wrist", 4, 8),)), "camera wrist.width: expected 6, got 8"),
        (replace(SPEC, cameras=(Camera("wrist", 4, 6, "bgr8"),)), "camera wrist.encoding: expected 'rgb8', got 'bgr8'"),
        (replace(SPEC, parts=(replace(ARM, unit="deg"), GRIPPER)), "arm.unit: expected 'rad', got 'deg'"),
        (replace(SPEC, parts=(replace(ARM, high=(1, 3)), GRIPPER)), "arm.high: expected (1.0, 2.0), got (1.0, 3.0)"),
        (replace(SPEC, parts=(ARM, replace(GRIPPER, sign=1))), "gripper.sign: expected -1, got 1"),
        (replace(SPEC, parts=(ARM, replace(GRIPPER, width=None))), "gripper.width: expected 0.08, got None"),
        (replace(SPEC, parts=(ARM,)), "action parts: expected ('arm', 'gripper'), got ('arm',)"),
    ],
)
def test_check_names_field_expected_and_got(other, line):
    assert line in SPEC.differences(other)
    with pytest.raises(SpecMismatch, match="the robot does not match: ") as caught:
        SPEC.check(other, "the robot")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_was_not_chosen_yet_and_float32_rounding_match():
    SPEC.check(SPEC.choose(horizon=0, n_obs_steps=0))
    SPEC.choose(horizon=0).check(SPEC)
    rounded = replace(ARM, high=tuple(np.float32([1, 2]) * np.float32(1 + 1e-7)))
    SPEC.check(replace(SPEC, parts=(rounded, GRIPPER), dt=float(np.float32(0.05))))


def test_texts_that_look_like_equal_numbers_are_different_names():
    numbered = replace(SPEC, state_names=("1", "2"))
    assert numbered.differences(replace(SPEC, state_names=("01", "2.0")))


def test_limits_and_sizes_follow_from_the_parts():
    assert SPEC.action_dim == 3 and SPEC.state_dim == 2 and GRIPPER.slice == slice(2, 3)
    np.testing.assert_array_equal(SPEC.low, np.float32([-1, -2, 0]))
    np.testing.assert_array_equal(SPEC.high, np.float32([1, 2, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "spec format_version: expected at most 1, got 99; upgrade robot_value"),
        ({"format_version": "1"}, "spec format_version: expected at most 1, got 1"),
        ({"fps": 20}, r"unknown fields \['fps'\]; known are \['cameras'"),
    ],
)
def test_a_spec_from_the_future_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Spec.from_json(SPEC.to_json() | change)
    with pytest.raises(ValueError, match=r"spec: expected fields \['dt', 'parts'\], got none"):
        Spec.from_json({"state_names": [], "state_units": [], "format_version": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(ARM, kind="joints"), "ActionPart.kind: expected one of joint, position, .*, got 'joints'"),
        (lambda: replace(ARM, reference="last"), "ActionPart.reference: expected one of absolute"),
        (lambda: replace(ARM, rotation="euler"), "ActionPart.rotation: expected one of none"),
        (lambda: replace(ARM, low=(1,)), r"'arm': dims \[0, 2\) need 2 limits each, got low 1 and high 2"),
        (lambda: replace(ARM, low=(1, 2)), "low must be below high"),
        (lambda: replace(ARM, low=(np.nan, 0)), "low must be below high"),
        (
            lambda: replace(SPEC, parts=(GRIPPER, ARM)),
            "must cover dims 0..A without gap or overlap, got .*'gripper', 2",
        ),
        (lambda: replace(SPEC, parts=()), "must cover dims"),
        (
            lambda: replace(SPEC, parts=(ARM, replace(GRIPPER, name="arm"))),
            "expected different names, got .*'arm', 'arm'",
        ),
        (lambda: replace(SPEC, state_units=()), "2 state names but 0 state units"),
        (lambda: replace(SPEC, dt=0.0), "dt must be a positive number of seconds, got 0.0"),
        (lambda: replace(SPEC, dt=np.nan), "dt must be a positive"),
    ],
)
def test_a_contract_that_means_nothing_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def observation(batch=3):
    return Observation(
        state=np.arange(batch * 4, dtype=np.float32).reshape(batch, 2, 2),
        images={
            "wrist": np.arange(batch, dtype=np.uint8)[:, None, None, None, None] + np.zeros((1, 2, 4, 6, 3), np.uint8)
        },
        task=tuple(f"task {i}" for i in range(batch)),
        time=np.arange(batch) * 1.0,
        step=np.arange(batch),
        episode=np.arange(batch) + 10,
        pending=np.zeros((batch, 1, 3), np.float32) + np.arange(batch)[:, None, None],
        committed=np.arange(batch),
    )


# mutation: in Observation.rows leave any field as it is -> this fails.
@settings(max_examples=50, deadline=None)
@given(st.one_of(st.lists(st.integers(-3, 2), max_size=5), st.lists(st.booleans(), min_size=3, max_size=3)))
def test_rows_takes_the_same_robots_from_every_field(rows):
    full = observation()
    expected = np.arange(3)[np.array(rows, bool if rows and isinstance(rows[0], bool) else int)]
    for chosen in (full.rows(rows), full.rows(np.array(rows)) if rows else full.rows([])):
        assert chosen.batch_size == len(expected) and chosen.task == tuple(f"task {i}" for i in expected)
        for name in ("time", "step", "episode", "pending", "committed", "state"):
            np.testing.assert_array_equal(getattr(chosen, name), getattr(full, name)[expected])
        np.testing.assert_array_equal(chosen.images["wrist"], full.images["wrist"][expected])


def test_an_observation_that_breaks_the_contract_is_refused():
    good = observation()
    good.check(SPEC)
    good.check(SPEC.choose(n_obs_steps=0))
    with pytest.raises(ValueError, match=r"state: expected float32\[3, 2, 2\], got float64\[3, 2, 2\]"):
        replace(good, state=good.state.astype(float)).check(SPEC)
    with pytest.raises(ValueError, match=r"state: expected float32\[3, 1, 2\]"):
        good.check(SPEC.choose(n_obs_steps=1))
    with pytest.raises(ValueError, match=r"images: expected camera 'wrist', got \[\]"):
        replace(good, images={}).check(SPEC)
    with pytest.raises(ValueError, match=r"images\['wrist'\]: expected uint8\[3, 2, 4, 6, 3\]"):
        replace(good, images={"wrist": good.images["wrist"][..., :1]}).check(SPEC)


def episode(steps=5, frames=6, **changed):
    fields = {
        "spec": SPEC,
        "states": np.zeros((frames, 2), np.float32),
        "images": {"wrist": np.zeros((frames, 4, 6, 3), np.uint8)},
        "actions": np.zeros((steps, 3), np.float32),
        "rewards": np.zeros(steps, np.float32),
        "terminated": True,
        "truncated": False,
        "success": None,
    }
    return Episode(**fields | changed)


def test_an_episode_knows_whether_its_final_frame_was_seen():
    assert len(episode()) == 5 and episode().final_observed and episode().dt == 0.05
    assert not episode(frames=5).final_observed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((5, 2), np.float32)}, r"actions: expected float32\[5, 3\], got float32\[5, 2\]"),
        ({"rewards": np.zeros(5)}, r"rewards: expected float32\[5\], got float64\[5\]"),
        ({"steps": 0, "frames": 1}, "an episode needs at least one action, got none"),
        ({"frames": 4}, "states: expected 5 or 6 rows for 5 actions, got 4"),
        ({"frames": 7}, "states: expected 5 or 6 rows"),
        ({"states": np.zeros((6, 3), np.float32)}, r"states: expected float32\[6, 2\]"),
        ({"images": {}}, r"images: expected cameras \['wrist'\], got \[\]"),
        ({"images": {"wrist": np.zeros((5, 4, 6, 3), np.uint8)}}, r"images\['wrist'\]: expected uint8\[6, 4, 6, 3\]"),
        ({"commanded": np.zeros((4, 3), np.float32)}, r"commanded: expected float32\[5, 3\]"),
        ({"source": np.zeros(5, np.int64)}, r"source: expected uint8\[5\], got int64\[5\]"),
    ],
)
def test_an_episode_that_breaks_the_contract_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        episode(**change)


def test_an_outcome_is_done_when_it_terminated_or_was_truncated():
    unused = dict.fromkeys(
        ["observation", "states", "images", "executed", "commanded", "executed_valid", "rewards", "source"]
    )
    flags = {"success": None, "unstable": None}
    ended, cut = np.array([True, False, False]), np.array([False, True, False])
    np.testing.assert_array_equal(Outcome(**unused, **flags, terminated=ended, truncated=cut).done, [True, True, False])


def test_features_repeat_neighbours_together_and_select_rows():
    import torch

    features = Features(torch.tensor([[1.0], [2.0]]))
    assert features.repeat(2).value.ravel().tolist() == [1, 1, 2, 2]
    assert features.select(torch.tensor([False, True])).value.ravel().tolist() == [2]


@pytest.mark.parametrize("module", ["types", "protocols", "randomness", "normalize", "actions", "safety", "components"])
def test_the_core_is_importable_without_torch(module):
    code = f"import sys, robot_value.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
