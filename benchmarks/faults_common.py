"""What trials of several kinds share."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
from faults_case import expect
from faults_rig import Rig, T

RUNNING, CONFIGURING = "in motion, at a random moment", "at configure"
OLD = 100.0  # ms, the last valid input may be this old when the arm begins to stop: S_state + T = 70, and some slack


def ns() -> int:
    return time.monotonic_ns()


def follows(rig: Rig, since: int, slack: float = 0.02) -> None:
    """No stop, and every command where the script wanted to be then."""
    rig.undisturbed(since)
    commands = [c for c in rig.commands if c.ns > since]
    wanted = rig.scripted.at(np.array([c.ns for c in commands]) + round(T * 1e9))
    off = np.abs(np.array([c.position for c in commands]) - wanted)[:, :7].max()
    expect(off < slack, f"{off:.3f} rad off the plan")


def refused_configuration(rig: Rig, **parameters: Any) -> None:
    """A guard (beside the one that runs) that must not come up: exit code 1, and not a command."""
    process = rig.another_guard(**parameters)
    try:
        code = process.popen.wait(timeout=30.0)
    except Exception:
        process.end(signal.SIGKILL)
        expect(False, f"came up with {parameters}")
    expect(code == 1, f"exit code {code}: {process.said[-500:]}")


def rss(pid: int) -> int:
    """bytes"""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
