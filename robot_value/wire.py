"""What our own nodes tell each other inside std messages: plans as JointTrajectory, steps and decisions as bytes.

Reads any object with the message's attributes (rclpy's, rosbags', a test's); no ROS, no torch. Times are ns of this
computer's CLOCK_MONOTONIC, which its processes share. Whatever comes in is checked here, once, and trusted afterwards.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .types import Decision, Spec

LONGEST = 4096  # steps of a plan; characters of what is said about it
LARGEST = 64 << 20  # bytes of a packed message
POLICY, HUMAN, STOP = "policy", "human", "stop"  # who a command comes from; "stop" is the guard's own


class WireError(ValueError):
    """The message is not what was agreed on; it must not be used."""


@dataclass(frozen=True)
class About:
    """What a plan's or a command's numbers do not say; JSON in `header.frame_id`, for the std messages have no room."""

    seq: int  # counts up within a sender's life; an older or equal one is dropped
    episode: int
    step: int  # control step of the first action, counted from the episode's start
    start: int  # ns, when that step begins; 0: as soon as it is received
    observed: int  # ns, when the oldest input it was made from was received
    created: int  # ns
    schema: str  # contract of the Spec, see `schema`
    source: str = POLICY  # POLICY, HUMAN or STOP


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions i = 0..K-1; action i is where to be at the end of step i, at start + (i + 1) dt."""

    about: About
    actions: np.ndarray  # float64[K, A], spec units, finite
    velocities: np.ndarray | None  # float64[K, A], per s; None: not said
    dt: float  # s


def schema(spec: Spec) -> str:
    """Contract between the nodes: equal where actions and observations mean the same."""
    plain = json.dumps(spec.choose(horizon=0, n_obs_steps=0).to_json(), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


def header(about: About) -> str:
    return json.dumps(asdict(about), separators=(",", ":"))


def parse_header(text: str) -> About:
    """Raises WireError."""
    if len(text) > LONGEST:
        raise WireError(f"frame_id: expected at most {LONGEST} characters, got {len(text)}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"frame_id: expected what wire.header writes, got {text[:80]!r}") from error
    kinds = {item.name: str if item.name in ("schema", "source") else int for item in fields(About)}
    if not isinstance(data, dict) or set(data) != set(kinds):
        raise WireError(f"frame_id: expected the keys {sorted(kinds)}, got {text[:80]!r}")
    for key, kind in kinds.items():
        if type(data[key]) is not kind:
            raise WireError(f"frame_id: {key}: expected {kind.__name__}, got {data[key]!r}")
    if data["source"] not in (POLICY, HUMAN, STOP):
        raise WireError(f"frame_id: source: expected {POLICY}, {HUMAN} or {STOP}, got {data['source']!r}")
    return About(**data)


def parse_plan(message: Any, names: Sequence[str]) -> Plan:
    """Of a JointTrajectory; `names` are the action dims, found by name whatever their order. Raises WireError."""
    about, points = parse_header(message.header.frame_id), message.points
    got = list(message.joint_names)
    if sorted(got) != sorted(names):
        raise WireError(f"joint_names: expected {list(names)}, got {got}")
    if not 1 <= len(points) <= LONGEST:
        raise WireError(f"points: expected 1 to {LONGEST}, got {len(points)}")
    order = [got.index(name) for name in names]
    times = np.array([p.time_from_start.sec * 1_000_000_000 + p.time_from_start.nanosec for p in points], np.int64)
    if times[0] <= 0 or (np.abs(np.diff(times, prepend=0) - times[0]) > 1000).any():
        raise WireError(f"time_from_start: expected equal steps from the first one on, got {times[:3].tolist()} ns ...")
    actions = _rows("positions", [p.positions for p in points], order)
    given = [len(p.velocities) for p in points]
    velocities = _rows("velocities", [p.velocities for p in points], order) if any(given) else None
    return Plan(about, actions, velocities, float(times[0]) * 1e-9)


def _rows(what: str, rows: Sequence[Any], order: Sequence[int]) -> np.ndarray:
    if any(len(row) != len(order) for row in rows):
        raise WireError(f"{what}: expected {len(order)} numbers in every point, got {sorted({len(r) for r in rows})}")
    values = np.array([list(row) for row in rows], np.float64)[:, order]
    if not np.isfinite(values).all():
        raise WireError(f"{what}: expected finite numbers, got others")
    return values


# -- bytes -------------------------------------------------------------------------------------------------------------


def pack(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """JSON values and named arrays (none called "about") as safetensors: binary floats with NaN, nothing executable."""
    from safetensors.numpy import save

    try:
        text = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
    except ValueError as error:
        raise WireError(f"about: expected finite numbers, got {str(about)[:200]}") from error
    return save({"about": text, **{name: np.ascontiguousarray(array) for name, array in arrays.items()}})


def unpack(data: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `pack` was given. Raises WireError."""
    from safetensors.numpy import load

    payload = bytes(data)
    if len(payload) > LARGEST:
        raise WireError(f"expected at most {LARGEST} bytes, got {len(payload)}")
    try:
        arrays = load(payload)
        about = json.loads(arrays.pop("about").tobytes())
    except Exception as error:  # a parser of untrusted bytes fails in many ways
        raise WireError(f"expected what wire.pack writes, got {type(error).__name__}: {error}") from error
    if not isinstance(about, dict):
        raise WireError(f"about: expected an object, got {about!r}")
    return about, arrays


# name -> ndim
ARRAYS = {"chunk": 3, "execute": 1, "start_step": 1, "index": 1, "candidates": 4, "value": 2, "spread": 2}
MAYBE = {"committed": 1}


def pack_decision(decision: Decision) -> bytes:
    """Times that nobody took are NaN, which JSON has no word for: null."""
    about = {key: getattr(decision, key) for key in ("reason", "seed", "versions")}
    about["seconds"] = {stage: None if s != s else s for stage, s in decision.seconds.items()}
    names = [name for name in (*ARRAYS, *MAYBE) if getattr(decision, name) is not None]
    return pack(about, {name: getattr(decision, name) for name in names})


def unpack_decision(data: Any) -> Decision:
    """Bit by bit what was packed. Raises WireError."""
    about, arrays = unpack(data)
    wanted = ARRAYS | {name: ndim for name, ndim in MAYBE.items() if name in arrays}
    if set(arrays) != set(wanted) or any(arrays[name].ndim != ndim for name, ndim in wanted.items()):
        raise WireError(f"decision: expected arrays {ARRAYS}, got { {k: v.ndim for k, v in arrays.items()} }")
    try:
        seconds = {stage: math.nan if s is None else s for stage, s in about.pop("seconds").items()}
        return Decision(**arrays, reason=tuple(about.pop("reason")), seconds=seconds, **about)
    except (KeyError, TypeError, AttributeError) as error:
        raise WireError(f"decision: {error}") from error
