"""The parent's half of a fleet worker: send calls, receive answers; never hang on a dead one nor leave one behind."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from .fleet_rows import Hello, Rows

SILENCE = 600.0  # s without an answer until a worker counts as stuck; the slowest honest answer takes tens of seconds
PATIENCE = 2.0  # s a worker gets to leave by itself
# A worker is one process for one core; its libraries must not bring thread pools of their own.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "LP_NUM_THREADS")


class FleetError(RuntimeError):
    """A worker failed, died or fell silent; the fleet is closed."""


class LocalLink:
    """No process at all: calls run in `receive`, exceptions surface as they are."""

    def __init__(self, config: Any, driver: str) -> None:
        self._rows = Rows(config.simulator(), driver)
        self._calls: Sequence[tuple] = [("hello",)]

    def send(self, calls: Sequence[tuple]) -> None:
        self._calls = calls

    def receive(self) -> list[Any]:
        return [getattr(self._rows, name)(*arguments) for name, *arguments in self._calls]

    def close(self) -> None:
        self._rows.close()


class ProcessLink:
    """One worker process; the first `receive` returns its Hello."""

    def __init__(self, name: str, config: Any, driver: str) -> None:
        self._name = name
        ours, theirs = socket.socketpair()
        environment = dict.fromkeys(_ONE_THREAD, "1") | dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.fleet_worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self.send(list(sys.path))
        self.send((config, driver))

    def send(self, message: Any) -> None:
        try:
            self._connection.send_bytes(pickle.dumps(message, protocol=5))
        except OSError:
            raise self._dead() from None

    def receive(self) -> list[Any]:
        deadline = time.monotonic() + SILENCE
        try:
            while not self._connection.poll(1.0):
                if self.process.poll() is not None and not self._connection.poll(0):
                    raise EOFError
                if time.monotonic() > deadline:
                    raise FleetError(f"{self._name}: no answer for {SILENCE:.0f} s; the simulator is stuck")
            kind, *content = self._connection.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        if kind == "failed":
            raise FleetError(f"{self._name}: {content[0]}\n{content[1]}")
        return content[0]

    def close(self) -> None:
        self._connection.close()  # the worker reads the end and leaves
        for signal_it in (lambda: None, self.process.terminate, self.process.kill):
            signal_it()
            try:
                self.process.wait(PATIENCE)
                return
            except subprocess.TimeoutExpired:
                continue

    def _dead(self) -> FleetError:
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        cause = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return FleetError(f"{self._name} (process {self.process.pid}) died: {cause}; its own output is above, if any")


Link = LocalLink | ProcessLink


def close_all(links: list[Link]) -> None:
    """Every link gets closed, whatever happens to the others; the first exception is raised afterwards."""
    failures = []
    while links:
        try:
            links.pop().close()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


__all__ = ["FleetError", "Hello", "Link", "LocalLink", "ProcessLink", "close_all"]
