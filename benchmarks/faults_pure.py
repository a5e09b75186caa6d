"""Faults whose protection is a pure function: many random cases against the very function that the nodes call."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from faults_case import NotSurvived, Pure, expect

from robot_value import messages, normalize, resampling, wire
from robot_value.topics import IMAGE, JOINT_STATE, Numbers, Pictures
from robot_value.types import ActionPart, Camera, Spec, SpecMismatch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

JOINTS = tuple(f"joint{i}" for i in range(1, 8))
STATE = Numbers("/joint_states", JOINT_STATE, "position", JOINTS, JOINTS, ("rad",) * 7, max_age=0.05)
CAMERA = Pictures("/camera", IMAGE, Camera("front", 8, 6), "rgb8", max_age=0.2)


def refused(error: type[Exception], call, what: str) -> None:
    try:
        got = call()
    except error:
        return
    raise NotSurvived(f"{what}: expected {error.__name__}, got {got!r}")


def joint_state(names, positions) -> SimpleNamespace:
    return SimpleNamespace(name=list(names), position=np.asarray(positions, np.float64))


def picture(rng, height=8, width=6, channels=3, encoding="rgb8", step=None, cut=0) -> SimpleNamespace:
    data = rng.integers(0, 256, height * (step or width * channels), np.uint8).tobytes()
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, step=step or width * channels, data=data[: len(data) - cut]
    )


# -- inputs ------------------------------------------------------------------------------------------------------------


def images(rng) -> int:
    """F3: another encoding, size, row length, or too few bytes."""
    right = messages.extract(CAMERA, picture(rng))
    expect(right.shape == (8, 6, 3), f"a right frame: expected [8, 6, 3], got {right.shape}")
    others = ["bgr8", "rgba8", "mono8", "16UC1", "32FC1", "", "rgb16"]
    for _ in range(200):
        kind = rng.integers(4)
        wrong = (
            picture(rng, encoding=str(rng.choice(others))),
            picture(rng, cut=int(rng.integers(1, 8 * 6 * 3))),
            picture(rng, step=int(rng.integers(1, 6 * 3))),
            picture(rng, height=int(rng.choice([0, 4, 7, 9, 480])), width=int(rng.choice([3, 5, 7, 640]))),
        )[kind]
        said = (
            f"frame of {wrong.encoding} {wrong.height} x {wrong.width}, rows of {wrong.step}, {len(wrong.data)} bytes"
        )
        refused(messages.MessageError, lambda wrong=wrong: messages.extract(CAMERA, wrong), said)
    return 200


def whatever_frame(entry, message) -> np.ndarray:
    return np.resize(np.frombuffer(message.data, np.uint8), (8, 6, 3))


def reordered(rng) -> int:
    """F4: every order of seven joints gives the same bits."""
    values = rng.normal(size=7)
    wanted = messages.extract(STATE, joint_state(JOINTS, values)).tobytes()
    orders = list(itertools.permutations(range(7)))
    for order in orders:
        message = joint_state([JOINTS[i] for i in order], values[list(order)])
        expect(messages.extract(STATE, message).tobytes() == wanted, f"order {order} gives other numbers")
    return len(orders)


def incomplete(rng) -> int:
    """F5: a joint missing, twice, or without a number is refused; an extra one is ignored."""
    for _ in range(300):
        names, values = list(JOINTS), list(rng.normal(size=7))
        wanted, at = messages.extract(STATE, joint_state(names, values)).tobytes(), int(rng.integers(7))
        extra = joint_state([*names[:at], "finger", *names[at:]], [*values[:at], 9.0, *values[at:]])
        expect(messages.extract(STATE, extra).tobytes() == wanted, "an extra joint changes the numbers")
        twice = [*names[:at], names[(at + 1) % 7], *names[at + 1 :]]
        for wrong in (
            joint_state(names[:at] + names[at + 1 :], values[:at] + values[at + 1 :]),
            joint_state(twice, values),
            joint_state(names, values[:at]),
            joint_state(names[:at], values),
            joint_state([*names, names[at]], [*values, 0.0]),
        ):
            refused(messages.MessageError, lambda wrong=wrong: messages.extract(STATE, wrong), f"{wrong.name}")
    return 1800


def as_they_come(entry, names, values) -> np.ndarray:
    return np.resize(values, len(entry.joints))


def not_finite(rng) -> int:
    """F6: NaN, infinities and what overflows float32, in any joint."""
    for _ in range(1000):
        values = rng.normal(size=7)
        values[rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf, 1e39, -1e300])
        message = joint_state(JOINTS, values)
        refused(messages.MessageError, lambda message=message: messages.extract(STATE, message), f"{values}")
    return 1000


def stamps(rng) -> int:
    """F8: ages come from receive times; whatever the header says, an old message is stale and a fresh one is not."""
    topics = SimpleNamespace(
        rate=50.0, max_skew=np.inf, state=(STATE,), action=(), observed=(STATE,), inputs={STATE.topic: STATE.type}
    )
    second = resampling.SECOND
    for _ in range(500):
        received = int(rng.integers(0, second // 5))
        offset = int(rng.choice([3600, -3600, 1, 0])) * second
        stamp = int(rng.choice([0, received + offset, received + second // 50]))
        assembler = resampling.Assembler(topics, second // 5)
        assembler.put(STATE.topic, resampling.Received(received, stamp, lambda: None))
        tick = assembler.take(0)
        old = second // 5 - received > STATE.max_age * second
        expect(bool(tick.stale) == old, f"received {received} ns, stamped {stamp} ns: stale is {tick.stale}")
    return 500


def by_stamp(entry, used, now) -> str:
    """The gap of MoveIt Servo: a stamp from the future never grows old."""
    return "" if now - used[entry.topic].stamp <= entry.max_age * resampling.SECOND else "old"


# -- plans and contracts -----------------------------------------------------------------------------------------------


def plan_message(actions: np.ndarray) -> SimpleNamespace:
    about = wire.About(seq=1, episode=0, step=0, start=0, observed=1, created=1, schema="x")
    points = [
        SimpleNamespace(
            positions=row.tolist(),
            velocities=[],
            time_from_start=SimpleNamespace(sec=0, nanosec=(i + 1) * 20_000_000),
        )
        for i, row in enumerate(actions)
    ]
    header = SimpleNamespace(frame_id=wire.header(about))
    return SimpleNamespace(header=header, joint_names=list(JOINTS), points=points)


def bad_plans(rng) -> int:
    """F13: one number of a plan is not finite: the whole plan is refused."""
    for _ in range(1000):
        actions = rng.normal(size=(8, 7))
        wire.parse_plan(plan_message(actions), JOINTS)
        actions[rng.integers(8), rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
        message = plan_message(actions)
        refused(wire.WireError, lambda message=message: wire.parse_plan(message, JOINTS), "plan")
    return 1000


def unchecked_rows(what, rows, order) -> np.ndarray:
    return np.array([list(row) for row in rows], np.float64)[:, order] if len(rows[0]) else None


def make_spec(**changes) -> Spec:
    part = {"name": "arm", "start": 0, "stop": 7, "kind": "joint", "unit": "rad"}
    part |= {"low": (-2.0,) * 7, "high": (2.0,) * 7}
    fields = {"state_names": JOINTS, "state_units": ("rad",) * 7, "dt": 0.05, "cameras": (Camera("front", 8, 6),)}
    both = {key: changes[key] for key in changes.keys() & part.keys() | changes.keys() & {"reference", "rotation"}}
    return Spec(parts=(ActionPart(**part | both),), **fields | {k: v for k, v in changes.items() if k in fields})


CONTRACTS = (
    {"unit": "deg"},
    {"unit": "mm"},
    {"reference": "previous"},
    {"reference": "current"},
    {"stop": 6, "low": (-2.0,) * 6, "high": (2.0,) * 6},
    {"low": (-200.0,) * 7, "high": (200.0,) * 7},
    {"state_names": (JOINTS[1], JOINTS[0], *JOINTS[2:])},
    {"state_units": ("deg",) * 7},
    {"dt": 0.02},
    {"cameras": ()},
    {"cameras": (Camera("front", 6, 8),)},
    {"cameras": (Camera("wrist", 8, 6),)},
    {"kind": "position", "unit": "m"},
)


def contracts(rng) -> int:
    """F22, F23: every pair of two different contracts is refused, naming both sides, and has another schema."""
    specs = [make_spec(), *(make_spec(**changes) for changes in CONTRACTS)]
    pairs = list(itertools.permutations(range(len(specs)), 2))
    for a, b in pairs:
        try:
            specs[a].check(specs[b], "the robot")
        except SpecMismatch as error:
            expect("expected" in str(error) and "got" in str(error), f"says too little: {error}")
        else:
            raise NotSurvived(f"contracts {a} and {b} differ, and passed")
        expect(wire.schema(specs[a]) != wire.schema(specs[b]), f"contracts {a} and {b} have one schema")
    specs[0].check(make_spec(), "the robot")
    return len(pairs)


def statistics(rng) -> int:
    """F24: missing, NaN, negative or misshapen statistics are refused; a dim that never moved stays finite."""
    good = normalize.Statistics.fit(rng.normal(size=(50, 7)))
    refused(ValueError, lambda: normalize.Normalizer.of({"state": good}, "action"), "missing statistics")
    refused(ValueError, lambda: normalize.Normalizer(None), "no statistics")
    for name in ("mean", "std", "low", "high"):
        for value in (np.nan, np.inf):
            data = good.to_json()
            data[name][int(rng.integers(7))] = value
            refused(ValueError, lambda data=data: normalize.Statistics.from_json(data), f"{name} {value}")
    still = normalize.Normalizer(normalize.Statistics.fit(np.ones((50, 7))))
    expect(np.isfinite(still.normalize(rng.normal(size=(9, 7)))).all(), "a dim that never moved gives infinities")
    return 11


def trusting_of(statistics, key, mode="mean_std"):
    return SimpleNamespace(normalize=lambda x: x)


# -- the critic --------------------------------------------------------------------------------------------------------


def steerer(values, spreads=None, gate=None):
    import torch
    from fakes import FixedCritic, HomingPolicy

    from robot_value.steering.selectors import argmax
    from robot_value.steering.steerer import Steerer

    policy = HomingPolicy()
    spread = None if spreads is None else torch.tensor(spreads)
    critic = FixedCritic(policy.spec, 4, torch.tensor(values), spread)
    return Steerer(policy, critic, argmax.Config().build(), gate, n=values.shape[1], execute=4)


def critic_not_finite(rng) -> int:
    """F14: a candidate without a finite score is never selected; without any, the plain policy's is, and says so."""
    from fakes import observation

    for _ in range(8):
        values = rng.normal(size=(16, 8)).astype(np.float32)
        values[rng.random((16, 8)) < rng.uniform(0.2, 1.0)] = rng.choice([np.nan, np.inf, -np.inf])
        ask = steerer(values)
        decision = ask(observation(ask.policy.spec, batch=16, seed=int(rng.integers(1 << 30))))
        finite = np.isfinite(values)
        for row in range(16):
            index, reason = int(decision.index[row]), decision.reason[row]
            if finite[row].any():
                best = int(np.where(finite[row], values[row], -np.inf).argmax())
                expect((index, reason) == (best, "chosen"), f"{values[row]}: chose {index} ({reason})")
            else:
                expect((index, reason) == (0, "critic_fallback"), f"nothing finite: chose {index} ({reason})")
    return 128


def everything_scored(scores, situation):
    return situation.finite


def critic_unsure(rng) -> int:
    """F16: where all values are alike, or members disagree more than values differ, the plain policy acts."""
    from fakes import observation

    from robot_value.steering.gates import spread

    for _ in range(20):
        constant = np.full((4, 8), rng.normal(), np.float32)
        noisy = rng.normal(size=(4, 8)).astype(np.float32)
        for values, disagreement in ((constant, 0.1), (noisy, 100.0)):
            ask = steerer(values, np.full((4, 8), disagreement, np.float32), spread.Config(threshold=1.0).build())
            decision = ask(observation(ask.policy.spec, batch=4, seed=int(rng.integers(1 << 30))))
            expect(set(decision.reason) == {"abstained"} and not decision.index.any(), f"{decision.reason}")
    return 160


def always_sure(self, chunks, scores, selection, situation):
    return np.ones(len(chunks), bool), "abstained"


def unprotected(target: str, name: str, replacement):
    """A context in which `target.name` is replaced; the module is imported when it begins."""
    import importlib

    def begin():
        holder, _, owner = target.partition(":")
        module = importlib.import_module(holder)
        return patch.object(getattr(module, owner) if owner else module, name, replacement)

    return begin


M, G = "robot_value.messages", "robot_value.steering"
CASES = (
    Pure("F3", "frames", "image of another encoding, size or length", "refused", images,
         unprotected(M, "_image", whatever_frame), "frames are taken as they come"),
    Pure("F4", "", "joints in another order", "mapped by name, bit-identical", reordered,
         unprotected(M, "_by_name", as_they_come), "numbers are taken in the order they come"),
    Pure("F5", "names", "joint missing, twice, extra, or without a number", "refused; extra ones ignored", incomplete,
         unprotected(M, "_by_name", as_they_come), "numbers are taken in the order they come"),
    Pure("F6", "numbers", "NaN, infinity, overflow in a state", "refused", not_finite,
         unprotected("numpy", "isfinite", lambda x: np.ones(np.shape(x), bool)), "numbers are not looked at"),
    Pure("F8", "ages", "stamps in the future, the past, zero", "age from receive time", stamps,
         unprotected("robot_value.resampling", "_old", by_stamp), "age from the header's stamp"),
    Pure("F13", "plans", "a number of a plan is not finite", "refused whole", bad_plans,
         unprotected("robot_value.wire", "_rows", unchecked_rows), "rows are taken as they come"),
    Pure("F14", "scores", "the critic says NaN or infinity", "never selected; candidate 0", critic_not_finite,
         unprotected(f"{G}.selectors.argmax", "scored", everything_scored), "every candidate may win"),
    Pure("F16", "", "critic saturated, or its members disagree", "abstains", critic_unsure,
         unprotected(f"{G}.gates.spread:Spread", "__call__", always_sure), "the gate lets everything through"),
    Pure("F22", "contracts", "units or references differ", "refused, naming both sides", contracts,
         unprotected("robot_value.types:Spec", "differences", lambda self, other: []), "contracts are not compared"),
    Pure("F23", "contracts", "dims, order of joints, cameras or period differ", "refused, naming both sides", contracts,
         unprotected("robot_value.types:Spec", "differences", lambda self, other: []), "contracts are not compared"),
    Pure("F24", "", "statistics missing, NaN, of a dim that never moved", "refused; finite", statistics,
         unprotected("robot_value.normalize:Normalizer", "of", trusting_of), "models run without statistics"),
)  # fmt: skip
