"""What our nodes tell each other: the same numbers come out, and nothing else is let in."""

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value import wire
from robot_value.types import ActionPart, Decision, Spec

SPEC = Spec((ActionPart("arm", 0, 2, "joint", "rad", (-1, -1), (1, 1)),), ("q0", "q1"), ("rad", "rad"), 0.05)
ABOUT = wire.About(3, 7, 40, 5_000, 4_000, 4_500, wire.schema(SPEC))
NAMES = ("j1", "j2", "grip")


def message(text=None, names=NAMES, rows=((0.1, 0.2, 1.0), (0.3, 0.4, -1.0)), velocities=(), period=50_000_000):
    points = [
        SimpleNamespace(
            positions=list(row),
            velocities=list(velocities[i]) if velocities else [],
            time_from_start=SimpleNamespace(sec=0, nanosec=(i + 1) * period),
        )
        for i, row in enumerate(rows)
    ]
    about = wire.header(ABOUT) if text is None else text
    return SimpleNamespace(header=SimpleNamespace(frame_id=about), joint_names=list(names), points=points)


def decision(n=3):
    rng = np.random.default_rng(0)
    value = rng.normal(size=(1, n)).astype(np.float32)
    value[:, :1] = np.nan
    return Decision(
        chunk=rng.normal(size=(1, 4, 2)).astype(np.float32),
        execute=np.array([4]),
        start_step=np.array([8]),
        reason=("chosen",),
        index=np.array([n - 1]),
        candidates=rng.normal(size=(1, n, 4, 2)).astype(np.float32),
        value=value,
        spread=-value,
        seconds={"encode": 0.25},
        seed=5,
        versions={"policy": "flow abc"},
    )


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_is_read_by_joint_name_whatever_the_order():
    # mutation: use the message's own order
    shuffled = [(row[2], row[0], row[1]) for row in ((0.1, 0.2, 1.0), (0.3, 0.4, -1.0))]
    plan = wire.parse_plan(message(names=("grip", "j1", "j2"), rows=shuffled), NAMES)
    assert plan.actions.tolist() == [[0.1, 0.2, 1.0], [0.3, 0.4, -1.0]]
    assert plan.about == ABOUT and plan.dt == pytest.approx(0.05) and plan.velocities is None


def test_velocities_are_read_where_they_are_given():
    # mutation: return positions for both
    plan = wire.parse_plan(message(velocities=((1, 2, 3), (4, 5, 6))), NAMES)
    assert plan.velocities.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (message(names=("j1", "j2")), "joint_names"),
        (message(names=("j1", "j2", "j2")), "joint_names"),
        (message(rows=()), "points"),
        (message(rows=((0.1, 0.2),)), "positions: expected 3"),
        (message(rows=((0.1, np.nan, 0.0),)), "finite"),
        (message(rows=((0.1, np.inf, 0.0),)), "finite"),
        (message(velocities=((1, 2, 3), ())), "velocities: expected 3"),
        (message(period=0), "time_from_start"),
        (message(text="x" * 5000), "at most"),
        (message(text="["), "wire.header"),
        (message(text="[" * 4000), "wire.header"),
        (message(text="{}"), "the keys"),
    ],
)
def test_a_plan_that_is_not_what_was_agreed_on_is_refused(wrong, said):
    # mutation: drop any one check of parse_plan or parse_header
    with pytest.raises(wire.WireError, match=said):
        wire.parse_plan(wrong, NAMES)


def test_unequal_steps_are_refused():
    # mutation: look at the first two points only
    late = message(rows=((0.0, 0.0, 0.0),) * 3)
    late.points[2].time_from_start.nanosec += 10_000
    with pytest.raises(wire.WireError, match="equal steps"):
        wire.parse_plan(late, NAMES)


@pytest.mark.parametrize(("key", "value"), [("seq", 1.0), ("seq", True), ("schema", 3), ("source", "ghost")])
def test_a_header_with_other_kinds_of_values_is_refused(key, value):
    # mutation: isinstance instead of the exact type (True is an int)
    text = json.dumps(json.loads(wire.header(ABOUT)) | {key: value})
    with pytest.raises(wire.WireError, match=key):
        wire.parse_header(text)


def test_the_schema_says_what_numbers_mean_and_nothing_about_models():
    # mutation: hash the horizon too, or leave the parts out
    assert wire.schema(SPEC.choose(horizon=8, n_obs_steps=2)) == wire.schema(SPEC)
    degrees = Spec((ActionPart("arm", 0, 2, "joint", "deg", (-1, -1), (1, 1)),), ("q0", "q1"), ("rad", "rad"), 0.05)
    assert wire.schema(degrees) != wire.schema(SPEC)


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_decision_comes_back_bit_by_bit_with_nan_and_without_candidates(n):
    # mutation: send value through JSON
    sent = decision(max(n, 1))
    if not n:
        empty = np.zeros((1, 0), np.float32)
        sent = replace(sent, candidates=np.zeros((1, 0, 4, 2), np.float32), value=empty, spread=empty)
    got = wire.unpack_decision(wire.pack_decision(sent))
    for name in wire.ARRAYS:
        a, b = getattr(sent, name), getattr(got, name)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    assert (got.reason, got.seconds, got.seed, got.versions) == (sent.reason, sent.seconds, sent.seed, sent.versions)


def test_times_that_nobody_took_come_back_as_nan_and_endless_ones_are_refused():
    # mutation: json.dumps of NaN; allow_nan
    got = wire.unpack_decision(wire.pack_decision(replace(decision(), seconds={"encode": 0.25, "score": np.nan})))
    assert got.seconds["encode"] == 0.25 and np.isnan(got.seconds["score"]) and set(got.seconds) == {"encode", "score"}
    with pytest.raises(wire.WireError, match=r"about: expected finite numbers, got .*'score': inf"):
        wire.pack_decision(replace(decision(), seconds={"score": np.inf}))


def test_arrays_of_any_kind_and_layout_come_back():
    # mutation: drop ascontiguousarray
    arrays = {"images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::-1], "t": np.array([1 << 60])}
    about, got = wire.unpack(wire.pack({"step": 3, "task": "öffne"}, arrays))
    assert about == {"step": 3, "task": "öffne"}
    assert all(np.array_equal(got[name], arrays[name]) for name in arrays)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_another_message_but_nothing_else(data):
    # mutation: catch only ValueError in unpack
    payload = bytearray(wire.pack_decision(decision()))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    del payload[data.draw(st.integers(0, len(payload))) :]
    with contextlib.suppress(wire.WireError):
        wire.unpack_decision(payload)


def test_more_bytes_than_agreed_are_refused(monkeypatch):
    # mutation: drop the size check
    monkeypatch.setattr(wire, "LARGEST", 100)
    with pytest.raises(wire.WireError, match="at most 100"):
        wire.unpack(bytes(101))
