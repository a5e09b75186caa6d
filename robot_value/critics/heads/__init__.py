"""What a value network puts out, and how that is read and trained: `--critic.head.kind=hl_gauss`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...normalize import Statistics
from .protocol import Head
from .scalar import Scalar

KINDS = ("scalar",)


@dataclass(frozen=True)
class HeadConfig:
    kind: str = "scalar"  # scalar


def make_head(config: HeadConfig, statistics: Mapping[str, Statistics]) -> Head:
    """Raises ValueError on an unknown kind."""
    if config.kind == "scalar":
        return Scalar()
    raise ValueError(f"head.kind: expected one of {', '.join(KINDS)}, got {config.kind!r}")
