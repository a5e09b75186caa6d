"""Where Rerun's data goes: a file, a viewer that listens, or one that is started; and how one that hangs is left."""

from __future__ import annotations

import importlib.util
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .places import LOOPBACK, Unfinished, host_and_port

PORT = 9876  # where Rerun's viewer listens unless it is told otherwise
WAIT = 20.0  # s until a viewer that was started listens
STALLED = 3.0  # s that a viewer may take for one decision; less than a display waits at its end


@dataclass(frozen=True)
class Place:
    """Where a stream goes."""

    finish: Callable[[], None] = lambda: None  # when all is written
    leave: Callable[[], None] = lambda: None  # when it is not taken


def to_file(stream: Any, path: Path) -> Place:
    file = Unfinished(path)
    stream.save(file.partial)
    return Place(file.finish)


def to_viewer(stream: Any, address: str) -> Place:
    host, port = host_and_port("address", address or f"{LOOPBACK[0]}:{PORT}")
    server = None if listens(host, port) else _open(host, port, serve=bool(address))
    stream.connect_grpc(f"rerun+http://{host}:{port}/proxy")
    if server:  # its end also frees whoever waits for it
        return Place(partial(_end, server), partial(_end, server))
    return Place(leave=partial(_hang_up, socket.gethostbyname(host), port))


def _open(host: str, port: int, serve: bool) -> subprocess.Popen | None:
    """A viewer, which stays when we end, or a server that viewers connect to, which ends with us and is returned."""
    if host not in LOOPBACK:
        raise ValueError(f"address: expected a viewer that listens at {host}:{port}, got nobody; start Rerun there")
    if not serve:
        check_screen()
    words = ["--serve-grpc"] if serve else ["--hide-welcome-screen"]
    command = [program(), "--bind", socket.gethostbyname(host), "--port", str(port), *words]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)  # Ctrl-C is ours
    patience = time.monotonic() + WAIT
    while not listens(host, port):
        if process.poll() is not None or time.monotonic() > patience:
            _end(process)
            raise OSError(f"display: expected Rerun to listen at {host}:{port}, got nobody; try `{' '.join(command)}`")
        time.sleep(0.05)
    if not serve:
        return None
    print(f"display: look at it with `rerun rerun+http://{host}:{port}/proxy`", file=sys.stderr)
    return process


def check_screen() -> None:
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise ValueError(
            "display: expected a screen for Rerun's viewer, got none (DISPLAY is not set); write a file with "
            f"--display.to=FILE.rrd, or look from elsewhere with --display.address={LOOPBACK[0]}:{PORT}"
        )


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait(STALLED)


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _hang_up(host: str, port: int) -> None:
    """Cut this process's connections to a viewer that hangs: the SDK waits for it for ever when Python ends."""
    for name in os.listdir("/proc/self/fd") if sys.platform.startswith("linux") else ():
        with suppress(OSError):  # closed meanwhile, or not connected
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as line:
                    if line.getpeername()[:2] == (host, port):
                        line.shutdown(socket.SHUT_RDWR)


def program() -> str:
    """Rerun's viewer itself; the `rerun` command is a script that starts it and does not take it along when it ends."""
    return str(Path(importlib.util.find_spec("rerun_cli").origin).with_name("rerun"))
