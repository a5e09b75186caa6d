"""Our guard with a /dev/shm of its own: python faults_shared_memory.py full - guard --ros-args ...

filled: no byte left once its modules are there; full: none from the start, and ROS' own pages were never made;
unwritable: mounted read-only; another: sound, but not what the others see (a container's). The second word is a control
of faults_unprotected.py or `guard_sees_room`, "-" for none. Needs the right to mount, or user namespaces; without them
the process ends with code 77.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHARED = Path("/dev/shm")
KINDS = {"filled": "size=64k", "full": "size=64k", "unwritable": "ro,size=64k", "another": "size=64m"}
NOT_ALLOWED = 77


def mount(kind: str) -> None:
    """Seen by this process and its children alone."""
    os.unshare(os.CLONE_NEWNS if os.geteuid() == 0 else os.CLONE_NEWNS | os.CLONE_NEWUSER)
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", KINDS[kind], "tmpfs", str(SHARED)]):
        subprocess.run(["mount", *command], check=True, capture_output=True)
    if kind == "full":
        fill()


def fill() -> None:
    try:
        with (SHARED / "all").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:  # there is no room left
        pass


def guard_sees_room() -> None:
    """Nobody looks how full /dev/shm is."""
    os.statvfs = lambda path: SimpleNamespace(f_bavail=1 << 20, f_frsize=4096, f_flag=0)


def main() -> None:
    kind, control, node = (sys.argv.pop(1) for _ in range(3))
    try:
        mount(kind)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"/dev/shm: expected to mount one of our own, got {error}", flush=True)
        sys.exit(NOT_ALLOWED)
    if control == "guard_sees_room":
        guard_sees_room()
    elif control != "-":
        getattr(importlib.import_module("faults_unprotected"), control)()
    module = importlib.import_module(f"robot_value.ros_nodes.{node}_node")
    if kind == "filled":
        time.sleep(0.5)  # the threads of ROS' tracing have read their pages
        fill()
    module.main()


if __name__ == "__main__":
    main()
