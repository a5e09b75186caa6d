"""What a fault of the matrix is: how it is injected, when, what must happen, and how its protection is taken away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np


class NotSurvived(AssertionError):
    """What must happen did not; the message says what did."""


class Disturbed(AssertionError):
    """The machine, not the node, spoiled the trial: it says nothing and is tried again."""


@dataclass(frozen=True)
class Pure:
    """A property of a pure function. `trial(rng)` draws cases and raises NotSurvived; returns how many it tried."""

    id: str  # F1 to F55
    part: str  # which part of it, where there are several
    fault: str
    expected: str
    trial: Callable[[np.random.Generator], int]
    unprotected: Callable[[], AbstractContextManager]  # within it the check is gone, and the trial must fail
    control: str  # what `unprotected` takes away


@dataclass(frozen=True)
class Graph:
    """A fault of running nodes. `trial(rig, rng)` raises NotSurvived; returns the reaction in ms or None."""

    id: str
    part: str
    fault: str
    phase: str
    expected: str
    trial: Callable[[Any, np.random.Generator], float | None]
    control: str  # what `unprotected` takes away
    unprotected: str | Mapping[str, Any]  # a wrapper of faults_unprotected.py in place of a node, or guard parameters
    bound_ms: float | None = None  # of the reaction, for every trial
    rig: str = "guard"  # which nodes run: see faults_rig.RIGS
    spoils: bool = False  # the rig cannot be used again afterwards


def expect(true: Any, why: str) -> None:
    if not true:
        raise NotSurvived(why)
