"""Real-time scheduling of a process whose commands must come in time whatever else wants the processor."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def real_time(priority: int) -> str:
    """SCHED_FIFO for all threads of this process and those that they start from now on; what came of it, in words.

    0 changes nothing, nor does a system without it or a user without the right (RLIMIT_RTPRIO, CAP_SYS_NICE).
    """
    if not priority:
        return "as it was started"
    if not hasattr(os, "sched_setscheduler"):
        return "no SCHED_FIFO on this system"
    try:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has just ended
                os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return f"no right to real-time priority {priority} (limits.conf: rtprio)"
    return f"real-time priority {priority}"
