"""What a threshold or an alarm was calibrated for, by name and options, so that a gate can refuse anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Setup:
    """Any other part, and what was calibrated says nothing."""

    policy: str  # component and checkpoint hash
    critic: str  # component and checkpoint hash
    selector: str  # with its options
    proposer: str  # with its options
    guide: str  # with its options
    n: int  # candidates per decision
    execute: int  # steps until the next decision

    @classmethod
    def of(cls, steerer: Any, critic: Any) -> Setup:
        """Of a Steerer that is about to use `critic`."""
        parts = {name: describe(getattr(steerer, name, None)) for name in ("policy", "selector", "proposer", "guide")}
        return cls(critic=describe(critic), n=steerer.n, execute=steerer.execute, **parts)

    def check(self, other: Setup, names: Sequence[str] = ()) -> None:
        """Raise ValueError where `other` differs in one of the fields `names` (all of them unless given)."""
        lines = [
            f"{name}: expected {getattr(self, name)!r}, got {getattr(other, name)!r}"
            for name in names or [item.name for item in fields(self)]
            if getattr(self, name) != getattr(other, name)
        ]
        if lines:
            raise ValueError(
                f"the gate was calibrated for something else: {'; '.join(lines)}; run `robot-value calibrate` again"
            )


def describe(part: Any) -> str:
    """Checkpoint, or a component with its options: those that a dataclass shows, or those of its Config."""
    if part is None:
        return "none"
    if hasattr(part, "version"):
        return part.version
    if is_dataclass(part):
        return repr(part)
    name, config = type(part).__name__, getattr(part, "config", None)
    return name + repr(config).removeprefix(type(config).__qualname__) if is_dataclass(config) else name
