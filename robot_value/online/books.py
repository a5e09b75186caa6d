"""What an online run has done, as progress.json tells it: rounds, trials of versions, and where the time went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..results import write_atomic
from .guard_rails import evidence_of

PLAIN, PASSED, WORSE = "plain", "passed", "worse"  # verdicts: PLAIN is the policy before anything was learned
FILE = "progress.json"


@dataclass(frozen=True)
class Seconds:
    """Of one round. Robot and learner begin together; the round is over when both are, and the books are kept."""

    acting: float = 0.0  # until the robot's episodes were stored
    learning: float = 0.0  # until the learner's updates were made
    bookkeeping: float = 0.0  # neither: data taken in, checkpoint, books of the round before

    @property
    def waiting(self) -> float:
        """The learner for the robot."""
        return max(0.0, self.acting - self.learning)

    @property
    def wall(self) -> float:
        return max(self.acting, self.learning) + self.bookkeeping


@dataclass(frozen=True)
class Booked:
    """A round that is over."""

    round: int
    version: int  # that played it
    update: int  # gradient steps made when it was over
    names: list[str]  # episodes to learn from
    success: list[bool]
    steps: list[int]  # executed control steps
    human_steps: list[int] = field(default_factory=list)  # of these, a human's
    demonstrations: list[str] = field(default_factory=list)  # given until it was over
    refused: int = 0  # gradient steps refused so far
    seconds: Seconds = Seconds()


@dataclass(frozen=True)
class Trial:
    """A version on the evaluation seeds, beside the last one that was not worse, on the same seeds."""

    version: int | None  # None: the plain policy
    round: int  # after which
    update: int
    env_steps: int
    success: list[bool]  # in the order of the seeds; a version shown to be worse is not played to the end
    verdict: str = PASSED
    against: int | None = None  # the other version
    evidence: float = 0.0  # that it is worse (guard_rails.evidence)
    seconds: float = 0.0


@dataclass
class Progress:
    rounds: list[Booked] = field(default_factory=list)
    evaluations: list[Trial] = field(default_factory=list)
    stopped: str = ""  # why learning was given up, if it was

    @property
    def env_steps(self) -> int:
        return sum(sum(each.steps) for each in self.rounds)

    @property
    def reference(self) -> Trial | None:
        """What the next version is compared with."""
        return next((trial for trial in reversed(self.evaluations) if trial.verdict != WORSE), None)

    @property
    def passed(self) -> Trial | None:
        """The last version that did."""
        return next((trial for trial in reversed(self.evaluations) if trial.verdict == PASSED), None)

    @property
    def rollbacks(self) -> int:
        return sum(trial.verdict == WORSE for trial in self.evaluations)

    def evidence(self, success: Sequence[bool]) -> float:
        return evidence_of(success, self.reference.success) if self.reference else 0.0

    def save(self, root: Path) -> None:
        write_atomic(root / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, root: Path) -> Progress:
        """Nothing yet where there is no file."""
        if not (root / FILE).exists():
            return cls()
        told = json.loads((root / FILE).read_text(encoding="utf-8"))
        rounds = [Booked(**{**each, "seconds": Seconds(**each["seconds"])}) for each in told["rounds"]]
        return cls(rounds, [Trial(**each) for each in told["evaluations"]], told["stopped"])


def overhead(progress: Progress) -> str:
    """Where the wall time went, in a sentence."""
    seconds = [each.seconds for each in progress.rounds]
    trials = sum(trial.seconds for trial in progress.evaluations)
    wall = sum(each.wall for each in seconds) + trials
    both = sum(min(each.acting, each.learning) for each in seconds)
    parts = {
        "the robot working": sum(each.acting for each in seconds),
        "the learner learning": sum(each.learning for each in seconds),
        "both at once": both,
        "evaluating": trials,
        "keeping books": sum(each.bookkeeping for each in seconds),
    }
    shares = ", ".join(f"{name} {100 * part / max(wall, 1e-9):.1f} %" for name, part in parts.items())
    return f"{wall:.0f} s: {shares}"
