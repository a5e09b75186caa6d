"""Our guard with a /dev/shm of its own: python faults_shared_memory.py full - guard --ros-args ...

full: no byte left; unwritable: mounted read-only; another: sound, but not what the others see (a container's). The
second word is a control of faults_unprotected.py, "-" for none. Needs the right to mount, or user namespaces; without
them the process ends with code 77.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHARED = Path("/dev/shm")
KINDS = {"full": "size=64k", "unwritable": "ro,size=64k", "another": "size=64m"}
NOT_ALLOWED = 77


def mount(kind: str) -> None:
    """Seen by this process and its children alone."""
    os.unshare(os.CLONE_NEWNS if os.geteuid() == 0 else os.CLONE_NEWNS | os.CLONE_NEWUSER)
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", KINDS[kind], "tmpfs", str(SHARED)]):
        subprocess.run(["mount", *command], check=True, capture_output=True)
    if kind == "full":
        try:
            with (SHARED / "all").open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:  # there is no room left
            pass


def main() -> None:
    kind, control, node = (sys.argv.pop(1) for _ in range(3))
    try:
        mount(kind)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"/dev/shm: expected to mount one of our own, got {error}", flush=True)
        sys.exit(NOT_ALLOWED)
    if control != "-":
        getattr(importlib.import_module("faults_unprotected"), control)()
    importlib.import_module(f"robot_value.ros_nodes.{node}_node").main()


if __name__ == "__main__":
    main()
