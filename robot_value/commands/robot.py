"""`robot-value robot check`: the first thing to run on a new arm; nothing moves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import flags
from ..components import unknown
from ..deploy import robot_check
from ..deploy.robot_check import FAIL, OK, WARN, Heard, Line
from ..resampling import SECOND
from ..topics import Topics, load

ACTIONS = ("check",)
CHECKS = (robot_check.wiring, robot_check.rates, robot_check.clocks, robot_check.freshness, robot_check.numbers)
DECISIONS = 20  # that are timed


@dataclass(frozen=True)
class Check:
    """Topics, types, rates, ages, joints, cameras, contract and latency. Exit code 0: ready, 1: something to repair."""

    topics: str = ""  # file that says what the robot's topics mean (docs/topics.md)
    policy: str = ""  # checkpoint of the policy: is it for this robot, and fast enough?
    critic: str = ""  # checkpoint of the critic
    n: int = 16  # N, candidates of a timed decision, where there is a critic
    seconds: float = 3.0  # s to listen
    move: bool = False  # ask for every joint to be moved by hand, to see order and signs
    out: str = "outputs/robot_check"  # folder for the pictures as the policy sees them


def run(argv: Sequence[str]) -> int:
    names, rest = flags.positional(argv)
    if names != ["check"] and not {"-h", "--help"} & set(rest):
        got = unknown("robot action", names[0], list(ACTIONS)) if names else "got nothing"
        raise flags.FlagError(f"expected robot-value robot check --topics=FILE; {got}")
    config = flags.parse(Check, rest, prog="robot-value robot check").values
    if not config.topics:
        raise flags.FlagError(
            "--topics: expected the file that says what the topics mean (docs/topics.md), got nothing"
        )
    if not config.seconds > 0:
        raise flags.FlagError(f"--seconds: expected a positive number, got {config.seconds}")
    levels = [_say(line) for line in _lines(config, load(config.topics))]
    print(f"\n{levels.count(OK)} ok, {levels.count(WARN)} to look at, {levels.count(FAIL)} to repair")
    return 1 if FAIL in levels else 0


def _say(line: Line) -> str:
    print(line, flush=True)
    return line.level


def _lines(config: Check, topics: Topics):
    from ..deploy.listening import Listener

    with Listener(topics) as listener:
        print(f"listening for {config.seconds:g} s ...", file=sys.stderr)
        heard = listener.hear(config.seconds)
        for check in CHECKS:
            yield from check(topics, heard)
        lines, seen = robot_check.pictures(topics, heard)
        yield from lines
        yield from _saved(seen, Path(config.out))
        yield from _models(config, topics, heard, seen)
        if config.move:
            yield from robot_check.walk(topics, listener.state, input)


def _saved(seen: dict[str, np.ndarray], folder: Path):
    """Pictures are for a human to look at: is the camera where it was for the data, and the right way up?"""
    from PIL import Image

    for name, frame in seen.items():
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(folder / f"{name}.png")
        yield Line(OK, name, f"look at {folder / name}.png: this is what the policy sees")


def _models(config: Check, topics: Topics, heard: dict[str, Heard], seen: dict[str, np.ndarray]):
    if not config.policy:
        yield Line(WARN, "policy", "none given: neither contract nor latency was looked at (--policy, --critic)")
        return
    from ..evaluate import Arm, executed_steps
    from ..training import load_model, load_policy

    policy = load_policy(config.policy)
    critics = {"main": load_model(config.critic)} if config.critic else {}
    found = [*robot_check.contract(topics.spec, "policy", policy.spec)]
    for critic in critics.values():
        found += robot_check.contract(topics.spec, "critic", critic.spec)
    yield from found
    state = _state(topics, heard)
    if any(line.level == FAIL for line in found) or state is None or len(seen) < len(topics.cameras):
        yield Line(WARN, "decision", "not timed, because something above is to be repaired first")
        return
    steered = {"selector": "softmax_average", "n": config.n, "critic": "main"} if critics else {}
    execute = executed_steps(None, policy, critics)
    steerer = Arm("checked", **steered).steerer(policy, critics, execute, seed=0)
    yield robot_check.latency(_timed(steerer, policy.spec, state, seen), execute, topics.spec.dt)


def _state(topics: Topics, heard: dict[str, Heard]) -> np.ndarray | None:
    """float32[S], the newest; None where a topic has none that can be read."""
    from ..messages import MessageError, extract

    try:
        parts = [extract(entry, heard[entry.topic].messages[-1]) for entry in topics.state]
    except (MessageError, IndexError):
        return None
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _timed(steerer: Any, spec: Any, state: np.ndarray, seen: dict[str, np.ndarray]) -> list[float]:
    """s of each decision after the first one, which warms up."""
    import time

    from ..types import Observation

    history = max(1, spec.n_obs_steps)
    images = {name: np.repeat(frame[None, None], history, 1) for name, frame in seen.items()}
    seconds = []
    for step in range(DECISIONS + 1):
        zero, one = np.zeros(1, np.int64), np.full(1, step, np.int64)
        pending = np.zeros((1, 0, spec.action_dim), np.float32)
        repeated = np.repeat(state[None, None], history, 1)
        observation = Observation(repeated, images, ("",), np.full(1, step * spec.dt), one, zero, pending, zero)
        began = time.monotonic_ns()
        steerer(observation)
        seconds.append((time.monotonic_ns() - began) / SECOND)
    return seconds[1:]
