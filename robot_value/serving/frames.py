"""Framing and words of the protocol: magic, length, then what `wire.pack` writes. docs/serving.md describes it.

A request is {"op": ...} with arrays; an answer is {"ok": true, ...} or {"error": one of ERRORS, "message": ...}.
"""

from __future__ import annotations

import struct

from ..wire import WireError

PROTOCOL = 1
MAGIC = b"RVS1"
HEADER = struct.Struct("!4sI")  # magic, bytes that follow
SMALL = 1 << 16  # bytes that a stranger may send: enough for a greeting
LOADING = 600.0  # s that a client may wait at most for another critic to be loaded
# What went wrong, for the client to act on: refused is the request's fault, late and busy pass, no_finite_chunk means
# stop this robot, failed is the server's.
REFUSED, LATE, BUSY, NO_FINITE_CHUNK, FAILED = "refused", "late", "busy", "no_finite_chunk", "failed"
ERRORS = (REFUSED, LATE, BUSY, NO_FINITE_CHUNK, FAILED)


def framed(payload: bytes) -> bytes:
    return HEADER.pack(MAGIC, len(payload)) + payload


def length(header: bytes, largest: int) -> int:
    """Bytes that follow. Raises WireError."""
    magic, size = HEADER.unpack(header)
    if magic != MAGIC:
        raise WireError(f"expected a frame of {MAGIC.decode()}, got {magic!r}")
    if size > largest:
        raise WireError(f"expected at most {largest} bytes, got {size}")
    return size
