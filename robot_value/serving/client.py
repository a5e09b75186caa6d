"""A Steerer that is somewhere else: takes the Steerer's place in the loop, in ThinkAhead and in the steering node.

A server that dies, restarts or is too slow makes the robot wait (`held`), up to `patience`; then NoAnswer is raised.
The server remembers what it told each robot only while the connection lives; which critic was loaded, it is told again.
No torch.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..types import Decision, NoFiniteChunk, Observation, Spec
from ..wire import LARGEST, WireError, pack, unpack, unpack_decision
from .frames import BUSY, ERRORS, HEADER, LATE, LOADING, NO_FINITE_CHUNK, PROTOCOL, framed, length
from .observations import pack_observation


class NoAnswer(RuntimeError):
    """The server did not answer within the patience; whoever drives the robot must stop it."""


class ServerRefused(ValueError):
    """The server answers that this will not work however often it is tried; the message says why."""


class Passing(Exception):
    """Worth another try."""


@dataclass
class Remote:
    host: str = "127.0.0.1"
    port: int = 0
    token: str = ""
    budget: float = 1.0  # s that one answer may take
    patience: float = 30.0  # s in which answers are asked for again before giving up; s that a critic may take to load
    held: float = 0.0  # s that robots waited for a server that was not there or not in time
    retries: int = 0
    policy: Any = field(init=False)  # what is known of it: `spec`
    _socket: socket.socket | None = field(default=None, repr=False)
    _entered: str = ""  # name of the loaded critic that decides; "": the server's own
    _next: str = ""  # of the one that will from the next reset on; "": none
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)  # one request at a time

    def __post_init__(self) -> None:
        known = self._patiently(self._connect)
        self.policy = SimpleNamespace(spec=Spec.from_json(known["spec"]))
        self.n, self.execute, self.seed = known["n"], known["execute"], known["seed"]

    def check(self, spec: Spec) -> None:
        self.policy.spec.check(spec, "the robot")

    def reset(self, rows: Sequence[int] | None = None) -> None:
        rows = None if rows is None else [int(row) for row in rows]
        self._patiently(lambda: self._reset(rows))
        if rows is None and self._next:
            self._entered, self._next = self._next, ""

    def load(self, version: Path) -> None:
        """Another critic from the next reset on, by its name below the server's folder of versions."""
        self._patiently(lambda: self._load(str(version)))
        self._next = str(version)

    def __call__(self, observation: Observation, active: np.ndarray | None = None) -> Decision:
        observation.check(self.policy.spec)
        more = {} if active is None else {"active": np.asarray(active, bool)}
        request = pack_observation(observation, {"op": "decide", "budget": self.budget}, more)
        return self._patiently(lambda: self._decision(request))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- one try -------------------------------------------------------------------------------------------------------

    def _connect(self) -> dict[str, Any]:
        self._socket = socket.create_connection((self.host, self.port), timeout=self.budget)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._greet()
        except BaseException:
            self.close()  # nobody may be asked who was not greeted to the end
            raise

    def _greet(self) -> dict[str, Any]:
        known = self._ask(pack({"op": "hello", "protocol": PROTOCOL, "token": self.token}, {}))
        if hasattr(self, "policy"):  # a server that came back with another policy is another server
            self.policy.spec.check(Spec.from_json(known["spec"]), "the server that came back")
        if self._entered:
            self._load(self._entered)
            self._reset(None)
        if self._next:
            self._load(self._next)
        return known

    def _reset(self, rows: list[int] | None) -> None:
        self._ask(pack({"op": "reset", "rows": rows}, {}))

    def _load(self, name: str) -> None:
        budget = min(max(self.budget, self.patience), LOADING)
        self._ask(pack({"op": "load", "name": name, "budget": budget}, {}), budget)

    def _decision(self, request: bytes) -> Decision:
        payload = self._exchange(request)
        try:
            return unpack_decision(payload)
        except WireError:
            self._understand(payload)  # an error in words
            raise

    def _ask(self, request: bytes, budget: float | None = None) -> dict[str, Any]:
        return self._understand(self._exchange(request, budget))

    def _exchange(self, request: bytes, budget: float | None = None) -> bytes:
        """`budget`: s for this answer; None: the usual."""
        if self._socket is None:
            self._connect()
        budget = self.budget if budget is None else budget
        deadline = time.monotonic() + budget
        try:
            self._socket.settimeout(budget)
            self._socket.sendall(framed(request))
            return self._read(length(self._read(HEADER.size, deadline), LARGEST), deadline)
        except BaseException:
            self.close()  # an answer that comes later is not the next request's
            raise

    def _read(self, size: int, deadline: float) -> bytes:
        parts, left = [], size
        while left:
            self._socket.settimeout(max(1e-3, deadline - time.monotonic()))
            part = self._socket.recv(min(left, 1 << 20))
            if not part:
                raise ConnectionError("the server closed the connection")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _understand(self, payload: bytes) -> dict[str, Any]:
        about, _ = unpack(payload)
        if about.get("ok") is True:
            return about
        kind, message = about.get("error"), str(about.get("message"))
        if kind in (LATE, BUSY):
            raise Passing(message)
        if kind == NO_FINITE_CHUNK:
            raise NoFiniteChunk(message)
        raise ServerRefused(message if kind in ERRORS else f"expected an answer, got {about}")

    # -- until it works ------------------------------------------------------------------------------------------------

    def _patiently[T](self, attempt: Callable[[], T]) -> T:
        began, pause, failed = time.monotonic(), 0.02, False
        while True:
            try:
                with self._turn:
                    answered = self._attempted(attempt)
            except (OSError, Passing, WireError) as error:
                failed, self.retries = True, self.retries + 1
                if time.monotonic() + pause - began > self.patience:
                    raise NoAnswer(f"{self.host}:{self.port}: no answer within {self.patience} s: {error}") from error
            else:
                self.held += time.monotonic() - began if failed else 0.0
                return answered
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def _attempted[T](self, attempt: Callable[[], T]) -> T:
        try:
            return attempt()
        except (OSError, Passing, WireError):
            self.close()  # an answer that comes late must not be taken for the next one
            raise
