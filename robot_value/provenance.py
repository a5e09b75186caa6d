"""Where a figure comes from: command line, git commit, library versions and machine, for every results.json."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("robot_value", "numpy", "torch", "zarr", "mujoco", "robosuite", "ogbench", "diffusers", "lerobot")


def provenance(started: float, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The first lines of results.json. `started` is `time.monotonic()` of the command's begin."""
    return {
        "command": command(argv),
        "git": commit(),
        "versions": versions(),
        "machine": machine(),
        "wall_seconds": round(time.monotonic() - started, 3),
    }


def command(argv: Sequence[str] | None = None) -> str:
    """The command line as it can be typed again; the program without the folder it happens to lie in."""
    argv = list(sys.argv if argv is None else argv)
    return shlex.join([Path(argv[0]).name, *argv[1:]])


def commit(folder: Path | None = None) -> str | None:
    """The commit of the checkout, "-dirty" where files differ from it; None outside a checkout."""
    folder = folder or Path(__file__).resolve().parents[1]
    if not (folder / "package.xml").is_file():
        return None  # installed: whatever repository surrounds us is not ours
    try:
        ask = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Python and those of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an optional library that this command cannot have used
    return found


def machine(cuda: Callable[[], str | None] | None = None) -> dict[str, Any]:
    """Cores we may use, processor, memory in GiB, and the GPU that torch sees."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": (cuda or _cuda)(),
    }


def _processor(path: Path = Path("/proc/cpuinfo")) -> str | None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _cuda() -> str | None:
    """Only a torch that is already loaded is asked: naming the GPU must not cost an import."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
