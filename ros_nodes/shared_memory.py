"""Is there room in /dev/shm for the pages that ROS maps as it is loaded?

rclpy brings LTTng-UST, whose threads read a page of a file there (and one of the user's own). Where the pages cannot be
made, SIGBUS ends the process without a word; once some process has made them, all others share them.
"""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path("/dev/shm")
PAGES = 2


def check_room(folder: Path = SHARED) -> None:
    """Before rclpy is imported. Raises ImportError where it would not survive."""
    try:
        free = os.statvfs(folder)
    except OSError:  # none at all: tracing stays off
        return
    if free.f_bavail * free.f_frsize >= PAGES * os.sysconf("SC_PAGESIZE") or free.f_flag & os.ST_RDONLY:
        return
    if sum(file.stat().st_blocks > 0 for file in folder.glob("lttng-ust-wait-*")) < PAGES:
        raise ImportError(
            f"{folder} is full, and rclpy would end this process with SIGBUS: expected room for {PAGES} pages; see "
            f"what is there with `du -a {folder}`, remove what nobody uses and start again"
        )
