"""Choose on validation seeds, fix, then test: the rule that keeps the test seeds honest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .evaluate import Arm, Comparison


class SeedOverlap(ValueError):
    """A seed that was used to choose would be used to judge."""


@dataclass(frozen=True)
class Recipe:
    """The arm that was chosen, and where. `check` refuses seeds that took part in the choice."""

    arm: Arm
    validation_success: float
    seeds: tuple[int, ...]  # the validation seeds
    candidates: tuple[str, ...]  # arms it was chosen among, simplest first

    def check(self, test: Iterable[int]) -> None:
        refuse_overlap(self.seeds, test)

    def to_json(self) -> dict[str, Any]:
        return {
            "arm": self.arm.name,
            "selector": self.arm.selector,
            "options": dict(self.arm.options),
            "n": self.arm.n,
            "gate": self.arm.gate,
            "critic": self.arm.critic,
            "chosen_on": "validation",
            "validation_success": self.validation_success,
            "chosen_among": list(self.candidates),
        }


def choose(validation: Comparison, candidates: Sequence[str]) -> Recipe:
    """The candidate with the highest mean success on the validation seeds.

    Ties go to the simpler arm: without a critic before with one, then fewer candidates, then the order given.
    """
    if not candidates:
        raise ValueError("a recipe needs at least one candidate arm, got none")
    arms = [validation.result(name).arm for name in candidates]
    order = sorted(range(len(arms)), key=lambda i: (arms[i].critic is not None, arms[i].n, i))
    successes = [int(validation.success(arm.name).sum()) for arm in arms]  # counts: ties are exact
    best = max(order, key=lambda i: successes[i])  # max keeps the first, which is the simplest
    return Recipe(
        arm=arms[best],
        validation_success=float(validation.success(arms[best].name).mean()),
        seeds=validation.seeds,
        candidates=tuple(arms[i].name for i in order),
    )


def refuse_overlap(validation: Iterable[int], test: Iterable[int]) -> None:
    """Raise SeedOverlap where a validation seed is also a test seed."""
    if shared := sorted(set(validation) & set(test)):
        raise SeedOverlap(
            f"test seeds must be disjoint from the validation seeds that chose the recipe, got {len(shared)} in both "
            f"({', '.join(map(str, shared[:5]))}{', ...' if len(shared) > 5 else ''}); choose other test seeds"
        )
