"""The server: one process, one inference at a time, any number of hostile clients.

Whoever connects gets a Steerer of its own (memory of what its robots were told) over the same networks. A request is
read whole within a time and a size, checked, and computed only while its sender still waits for it. No answer holds a
traceback. Loopback needs no token; every other address does.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..steering.steerer import Steerer
from ..types import NoFiniteChunk
from ..untrusted import Refused, inside
from ..wire import WireError, pack, pack_decision, unpack
from .frames import BUSY, FAILED, HEADER, LATE, LOADING, NO_FINITE_CHUNK, PROTOCOL, REFUSED, SMALL, framed, length
from .observations import read_observation

LOG = logging.getLogger("robot_value.serving")
STRANGERS = 3  # requests of somebody who has not greeted, then the connection ends


@dataclass(frozen=True)
class Limits:
    connections: int = 8  # at once
    largest: int = 64 << 20  # bytes of a request
    robots: int = 256  # of one request
    receive: float = 10.0  # s for a whole request, from its first byte on
    idle: float = 600.0  # s without a request
    greeting: float = 5.0  # s until a stranger has said who it is
    budget: float = 60.0  # s that a client may want to wait at most for a decision


@dataclass
class Session:
    """One connection."""

    steerer: Steerer | None = None  # once it has greeted


class Late(Exception):
    """The sender has given up waiting."""


@dataclass
class Server:
    make: Callable[[], Steerer]  # a fresh Steerer over the shared networks
    token: str = ""  # what clients must know; "": nothing, on loopback only
    versions: Path | None = None  # folder below which clients may name other critics; None: they may not
    limits: Limits = Limits()
    decisions: int = 0
    refused: int = 0
    _open: set[asyncio.Task] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "inference"))

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen; the address that was taken (port 0: a free one)."""
        if not self.token and not _loopback(host):
            raise ValueError(f"host {host}: expected a token for an address that others can reach, got none")
        self._server = await asyncio.start_server(self._connected, host, port, limit=SMALL)
        return self._server.sockets[0].getsockname()[:2]

    async def forever(self) -> None:
        await self._server.serve_forever()

    async def close(self) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(asyncio.current_task())
        try:
            if len(self._open) > self.limits.connections:
                await self._send(writer, error(BUSY, f"expected at most {self.limits.connections} connections"))
            else:
                await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # gone, or too slow
        except Exception:
            LOG.exception("a connection failed")
        finally:
            self._open.discard(asyncio.current_task())
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session, left = Session(), STRANGERS
        while session.steerer is not None or left:
            known, left = session.steerer is not None, left - 1
            wait, largest = (self.limits.idle, self.limits.largest) if known else (self.limits.greeting, SMALL)
            try:
                payload = await self._receive(reader, wait, largest)
            except WireError as wrong:  # what follows cannot be understood
                self.refused += 1
                return await self._send(writer, error(REFUSED, str(wrong)))
            await self._send(writer, await self._answer(session, payload))

    async def _receive(self, reader: asyncio.StreamReader, wait: float, largest: int) -> bytes:
        first = await asyncio.wait_for(reader.readexactly(1), wait)
        async with asyncio.timeout(self.limits.receive):
            size = length(first + await reader.readexactly(HEADER.size - 1), largest)
            return await reader.readexactly(size)

    async def _send(self, writer: asyncio.StreamWriter, payload: bytes) -> None:
        writer.write(framed(payload))
        await asyncio.wait_for(writer.drain(), self.limits.receive)

    async def _answer(self, session: Session, payload: bytes) -> bytes:
        received = time.monotonic()
        try:
            about, arrays = unpack(payload)
            return await self._act(session, about, arrays, received)
        except (WireError, Refused) as wrong:
            self.refused += 1
            return error(REFUSED, str(wrong))
        except Late as late:
            return error(LATE, str(late))
        except NoFiniteChunk as nothing:
            return error(NO_FINITE_CHUNK, str(nothing))
        except Exception:
            LOG.exception("a request failed")
            return error(FAILED, "internal error; the server's log says which")

    async def _act(self, session: Session, about: dict, arrays: dict[str, np.ndarray], received: float) -> bytes:
        op = about.get("op")
        if op == "health":
            return answer(version=__version__, protocol=PROTOCOL)
        if op == "hello":
            return self._greet(session, about)
        if session.steerer is None:
            raise WireError(f"expected a greeting first, got {op!r}")
        if op == "decide":
            return await self._decide(session.steerer, about, arrays, received)
        if op == "reset":
            session.steerer.reset(_rows(about.get("rows")))
            return answer()
        if op == "load":
            return await self._load(session.steerer, about, received)
        raise WireError(f"op: expected health, hello, decide, reset or load, got {op!r}")

    def _greet(self, session: Session, about: dict) -> bytes:
        if self.token and not hmac.compare_digest(str(about.get("token", "")).encode(), self.token.encode()):
            raise WireError("token: expected the server's, got another")
        if about.get("protocol") != PROTOCOL:
            raise WireError(f"protocol: expected {PROTOCOL}, got {about.get('protocol')!r}; install one robot_value")
        session.steerer = self.make()
        steerer = session.steerer
        about = {"n": steerer.n, "execute": steerer.execute, "seed": steerer.seed}
        return answer(spec=steerer.policy.spec.to_json(), version=__version__, decisions=self.decisions, **about)

    async def _decide(self, steerer: Steerer, about: dict, arrays: dict[str, np.ndarray], received: float) -> bytes:
        budget = _seconds(about.get("budget"), self.limits.budget)
        observation = read_observation(about, arrays, steerer.policy.spec)
        if observation.batch_size > self.limits.robots:
            raise WireError(f"expected at most {self.limits.robots} robots, got {observation.batch_size}")
        active = arrays.get("active")
        if active is not None and (active.dtype != bool or active.shape != (observation.batch_size,)):
            raise WireError(f"active: expected bool[{observation.batch_size}], got {active.dtype}{list(active.shape)}")

        decision = await self._infer(lambda: steerer(observation, active), received, budget)
        self.decisions += 1
        return pack_decision(decision)

    async def _load(self, steerer: Steerer, about: dict, received: float) -> bytes:
        """Another critic from the next reset on, by its name below `versions`."""
        if self.versions is None:
            raise WireError("load: expected a server with --versions, got one without")
        budget = _seconds(about.get("budget", LOADING), LOADING)
        path = inside(self.versions, str(about.get("name", "")))
        try:
            await self._infer(lambda: steerer.load(path), received, budget)
        except (ValueError, OSError) as wrong:
            LOG.warning("load: %s", wrong)
            raise WireError(f"load: expected a critic's checkpoint, got {about.get('name')!r}") from wrong
        return answer()

    async def _infer[T](self, work: Callable[[], T], received: float, budget: float) -> T:
        """On the one worker, unless the sender has given up by the time that it is free."""

        def begin() -> T:
            if time.monotonic() > received + budget:
                raise Late(f"expected to begin within {budget} s, got there later: the server is busy")
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._worker, begin)


def answer(**about: Any) -> bytes:
    return pack({"ok": True, **about}, {})


def error(kind: str, message: str) -> bytes:
    return pack({"error": kind, "message": message[:1000]}, {})


def _rows(rows: Any) -> list[int] | None:
    if rows is not None and not (isinstance(rows, list) and all(type(row) is int for row in rows)):
        raise WireError(f"rows: expected a list of numbers or null, got {rows!r}")
    return rows


def _seconds(budget: Any, largest: float) -> float:
    if type(budget) not in (int, float) or not 0 < budget <= largest:
        raise WireError(f"budget: expected seconds up to {largest}, got {budget!r}")
    return budget


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
