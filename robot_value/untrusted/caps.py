"""How much memory data may ask for before it is decoded: little for nothing, much only for bytes that are there."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

SCALE = float(os.environ.get("ROBOT_VALUE_CAPS", "1"))  # raises every cap, for data you vouch for
FREE = int(SCALE * (1 << 28))  # bytes, decoded, that any input may claim: 256 MB
RATIO = int(SCALE * 1000)  # decoded bytes per stored byte beyond that; zstd reaches it only on constant data
LARGEST = int(SCALE * (1 << 32))  # bytes, decoded, in memory at once: an episode of 4 GB
LARGEST_ARRAY = int(SCALE * (1 << 42))  # bytes, decoded, of one array of a dataset: 4 TB
DIMENSIONS = 8
KINDS = "biufSU"  # numpy kinds that are plain bytes: no objects, no records


class Refused(ValueError):
    """Hostile or absurd input: it was not executed and no memory was given to it. The message says what to do."""


def check_array(name: str, shape: Sequence[int], dtype: Any, stored: int) -> None:
    """Refuse object dtypes, and shapes whose decoded size is absurd for `stored` bytes on disk."""
    size = decoded_bytes(name, shape, dtype)
    check_size(name, size, stored)
    if size >= LARGEST_ARRAY:
        raise Refused(f"{name}: expected less than {LARGEST_ARRAY} bytes decoded, got {size}; {_raise()}")


def decoded_bytes(name: str, shape: Sequence[int], dtype: Any) -> int:
    """Of a declared array; Refused where the declaration is not one of numbers or texts."""
    dtype = plain_dtype(name, dtype)
    lengths = [length for length in shape if isinstance(length, int | np.integer) and not isinstance(length, bool)]
    if len(lengths) != len(shape) or len(shape) > DIMENSIONS or min(lengths, default=0) < 0:
        raise Refused(f"{name}: expected a shape of at most {DIMENSIONS} lengths, got {str(list(shape))[:80]}")
    return math.prod(int(length) for length in lengths) * dtype.itemsize


def plain_dtype(name: str, dtype: Any) -> np.dtype:
    """The dtype; Refused where it holds objects or records."""
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise Refused(f"{name}: expected a numpy dtype, got {str(dtype)[:80]!r} ({error})") from None
    if found.kind not in KINDS or found.itemsize > FREE:
        raise Refused(f"{name}: expected numbers or texts, got dtype {str(dtype)[:80]}; objects are never loaded")
    return found


def check_size(name: str, decoded: int, stored: int) -> None:
    """Refuse decoded bytes that `stored` bytes cannot honestly hold."""
    if decoded > max(FREE, RATIO * stored):
        raise Refused(
            f"{name}: expected at most {RATIO} decoded bytes per stored byte, got {decoded} from {stored}; {_raise()}"
        )


def at_once(name: str, decoded: int) -> None:
    """Refuse to hold more than LARGEST bytes at once."""
    if decoded > LARGEST:
        raise Refused(f"{name}: expected at most {LARGEST} bytes at once, got {decoded}; {_raise()}")


def _raise() -> str:
    return f"if you trust its source, set ROBOT_VALUE_CAPS={10 * SCALE:g} and try again"
