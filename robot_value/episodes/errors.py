"""What a store refuses and what it finds damaged, in one line: expected, got, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class StoreError(ValueError):
    """The store cannot do what was asked; one line says what was expected, what came and what to do."""


@dataclass(frozen=True)
class Problem:
    """One damaged file: what was promised and what is there."""

    episode: str  # "." for the store's own files
    file: str  # relative to the episode's folder
    expected: str
    got: str

    stranger: bool = False  # a file too many: nothing that was promised is lost

    def __str__(self) -> str:
        return f"{self.episode}/{self.file}: expected {self.expected}, got {self.got}"


class EpisodeDamaged(StoreError):
    """The episode on disk is not the one that was acknowledged."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(
            f"damaged episode {self.problems[0]}{more}; restore it from a copy, "
            "or `robot-value data repair` moves it to quarantine/"
        )

    def __reduce__(self) -> tuple[type[EpisodeDamaged], tuple[list[Problem]]]:
        return EpisodeDamaged, (self.problems,)  # back whole from a worker process
