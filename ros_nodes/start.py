"""A launch where ROS's `launch` is missing (pip): `python -m robot_value.ros_nodes.start steer robot:=ur5e`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .node_table import LAUNCHES, LaunchError, command, processes


def installed() -> Path:
    """The folder of launch files: the checkout's, or where pip put it."""
    places = [Path(__file__).resolve().parent.parent / "launch", Path(sys.prefix) / "share" / "robot_value" / "launch"]
    if found := next((place for place in places if (place / "params").is_dir()), None):
        return found
    raise LaunchError(f"expected launch files in one of {', '.join(map(str, places))}, got none")


def usage() -> str:
    lines = ["usage: python -m robot_value.ros_nodes.start LAUNCH [argument:=value ...]"]
    for name, launch in LAUNCHES.items():
        lines += ["", f"{name}: {launch.description}"]
        lines += [f"  {a.name + ':=' + a.default:<28} {a.description}" for a in launch.arguments]
    return "\n".join(lines)


def start(launch: str, given: Mapping[str, str], variables: Mapping[str, str] | None = None) -> list[subprocess.Popen]:
    """One process per node, in a session of its own: Ctrl-C reaches them once, through `main`."""
    environment = {**os.environ, **(variables or {})}
    found = processes(launch, given, installed())
    return [subprocess.Popen(command(each), env=environment, start_new_session=True) for each in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Ends when every node has; its code is the largest of theirs."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    try:
        running = start(words[0], dict(_pair(word) for word in words[1:]))
    except LaunchError as error:
        print(f"start: {error}", file=sys.stderr)
        return 2
    told = 0
    while any(each.poll() is None for each in running):
        for number in ended[told:]:
            _tell(running, number)
        told = len(ended)
        time.sleep(0.05)
    return max(abs(each.returncode) for each in running)


def _tell(running: Sequence[subprocess.Popen], number: int) -> None:
    for each in running:
        if each.poll() is None:
            each.send_signal(number)


def _pair(word: str) -> tuple[str, str]:
    name, assigned, value = word.partition(":=")
    if not assigned:
        raise LaunchError(f"expected argument:=value, got {word!r}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
