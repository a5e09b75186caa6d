"""A YAML file taken apart key by key: what is missing, unknown, twice or of another kind is an error naming its key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST = 1 << 16  # bytes; settings are short, and reading YAML is slow


class KeyMistake(ValueError):
    """The YAML is not what is needed; the message names the key, what was expected and what came."""


def read_yaml(path: str | Path) -> Any:
    """Plain values only: no tag makes an object. Raises KeyMistake, OSError."""
    import yaml

    if (size := Path(path).stat().st_size) > LARGEST:
        raise KeyMistake(f"expected at most {LARGEST} bytes, got {size}")
    try:
        content = Path(path).read_text(encoding="utf-8")
        no_key_twice(yaml.compose(content, Loader=yaml.SafeLoader))
        return yaml.safe_load(content)
    except (UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise KeyMistake(f"expected YAML, got {error}") from error


class Keys:
    """A YAML mapping that is taken apart key by key; what nobody took is an error."""

    def __init__(self, where: str, data: Any):
        if not isinstance(data, dict):
            raise KeyMistake(f"{where.rstrip('.') or 'the file'}: expected a mapping, got {_short(data)}")
        self.where, self.left, self._known = where, dict(data), []

    def take(self, key: str, read: Callable[[Any], Any], default: Any = None) -> Any:
        self._known.append(key)
        if key not in self.left and default is not None:
            return default
        if key not in self.left:
            raise KeyMistake(f"{self.where}{key}: expected a value, got nothing")
        value = self.left.pop(key)
        try:
            return read(value)
        except (ValueError, TypeError) as error:
            raise KeyMistake(f"{self.where}{key}: {error}, got {_short(value)}") from None

    def below(self, key: str) -> Keys:
        return Keys(f"{self.where}{key}.", self.take(key, lambda value: value))

    def entries(self, key: str) -> list[Keys]:
        values = self.take(key, sequence, [])
        return [Keys(f"{self.where}{key}[{i}].", value) for i, value in enumerate(values)]

    def done(self) -> None:
        if self.left:
            raise KeyMistake(f"{self.where}{next(iter(self.left))}: unknown key; known are {', '.join(self._known)}")


def _short(value: Any) -> str:
    return repr(value)[:80] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"


def sequence(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("expected a list")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected text")
    return value


def texts(value: Any) -> tuple[str, ...]:
    found = tuple(text(one) for one in sequence(value))
    if not found or len(set(found)) != len(found):
        raise ValueError("expected different names")
    return found


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("expected a finite number")
    return float(value)


def positive(value: Any) -> float:
    if not number(value) > 0:
        raise ValueError("expected a positive number")
    return float(value)


def each(value: Any, size: int, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    """One per dim; a single value counts for all of them."""
    values = tuple(read(one) for one in value) if isinstance(value, list) else (read(value),) * size
    if len(values) != size:
        raise ValueError(f"expected {size} of them, one per dim")
    return values


def pattern(expected: re.Pattern[str], example: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not expected.fullmatch(value):
            raise ValueError(f"expected something like {example}")
        return value

    return read


def no_key_twice(node: Any, seen: set[int] | None = None) -> None:
    """YAML lets the last one win; a person who wrote a key twice meant something else."""
    seen = set() if seen is None else seen
    if node is None or id(node) in seen or isinstance(node.value, str):
        return
    seen.add(id(node))
    pairs = [one for one in node.value if isinstance(one, tuple)]
    keys = [key.value for key, _ in pairs if isinstance(key.value, str)]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise KeyMistake(f"line {node.start_mark.line + 1}: expected every key once, got {twice[0]!r} twice")
    for child in [value for _, value in pairs] or [one for one in node.value if not isinstance(one, tuple)]:
        no_key_twice(child, seen)
