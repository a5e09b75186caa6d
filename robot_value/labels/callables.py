"""Functions of the user's own ("package.module:function"), and what they answer, checked before it becomes a label."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def load_function(flag: str, path: str) -> Callable[..., Any]:
    """The function at "package.module:function"; errors inside that module surface as they are."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"{flag}: expected package.module:function, got {path!r}")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # the module is there, something it imports is not
            raise
        raise ValueError(
            f"{flag}: no module {module!r}; PYTHONPATH=FOLDER robot-value ... finds the files of a folder"
        ) from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise ValueError(f"{flag}: expected a function {name!r} in {module}, got {function!r}")
    return function


def checked(flag: str, answer: Any, shape: Sequence[int | None]) -> np.ndarray:
    """float64 of `shape` (None: any size), all finite. A tensor must be on the CPU."""
    try:
        array = np.asarray(answer, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{flag}: expected numbers, got {type(answer).__name__}: {error}") from error
    sizes = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(expected not in (None, got) for got, expected in sizes):
        wanted = ["any" if size is None else size for size in shape]
        raise ValueError(f"{flag}: expected numbers of shape {wanted}, got {list(array.shape)}")
    if not np.isfinite(array).all():
        where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise ValueError(f"{flag}: expected finite numbers, got {array[where]} at {where}")
    return array
