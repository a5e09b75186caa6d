"""Where a display goes: a file that has its name when it is whole, or an address."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..episodes.durable import sync_folder

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Unfinished:
    """A file that somebody else writes at `partial`; `finish` gives it its name."""

    path: Path

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial.unlink(missing_ok=True)

    @property
    def partial(self) -> Path:
        return self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")

    def finish(self) -> None:
        """Durable when this returns."""
        with open(self.partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.partial, self.path)
        sync_folder(self.path.parent)


def check_place(to: str, suffix: str, address: str, robots: int = 1) -> None:
    if robots < 1:
        raise ValueError(f"robots: expected at least 1, got {robots}; leave out --display to show none")
    if to and address:
        raise ValueError(f"to, address: expected at most one of them, got {to!r} and {address!r}")
    if to and Path(to).suffix != suffix:
        raise ValueError(f"to: expected a file *{suffix}, got {to!r}")
    if address:
        host_and_port("address", address)


def of_part[C](config: C, part: str) -> C:
    """A display that is opened once per part of a run: look.rrd is look_round_0001.rrd."""
    to = Path(config.to)
    return replace(config, to=str(to.with_name(f"{to.stem}_{part}{to.suffix}"))) if config.to else config


def host_and_port(field: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{field}: expected HOST:PORT, e.g. 127.0.0.1:9876, got {address!r}")
    return host, int(port)
