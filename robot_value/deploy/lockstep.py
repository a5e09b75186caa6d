"""The guard without a clock: command k answers state k and a plan that covers step k, whatever comes first."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..wire import HUMAN, POLICY, Plan


class LockStep:
    def __init__(self, schema: str, topics: Collection[str]) -> None:
        self._schema, self._topics = schema, set(topics)
        self._steps: dict[str, tuple[int, int]] = {}  # state topic -> (episode, step)
        self._plans: list[Plan] = []
        self._human, self._released = False, 0
        self.answered = (-1, -1)  # (episode, step) of the last command

    def state(self, topic: str, frame: str) -> None:
        """A state came; `frame` is its header's frame_id, "<episode>:<step>"."""
        try:
            episode, step = map(int, frame.split(":"))
        except ValueError as error:
            raise ValueError(f"{topic}: expected a frame_id <episode>:<step> in lock-step, got {frame!r}") from error
        self._steps[topic] = (episode, step)

    def offer(self, plan: Plan) -> str:
        """ "" where it is kept, else why not."""
        if plan.about.schema != self._schema:
            return f"schema: expected {self._schema}, got {plan.about.schema}"
        if not self._allowed(plan):
            return "source: expected plans of the human, or of after its release"
        self._plans.append(plan)
        return ""

    def intervene(self, human: bool, now: int) -> None:
        if human != self._human:
            self._human, self._released = human, now
            self._plans = [plan for plan in self._plans if self._allowed(plan)]

    def next(self) -> tuple[int, int, Plan] | None:
        """(episode, step, plan) of the command that is due; a human's plan wins, then the newest."""
        now = set(self._steps.values())
        if len(now) != 1 or set(self._steps) != self._topics or now == {self.answered}:
            return None
        episode, step = now.pop()
        self._plans = [p for p in self._plans if p.about.episode >= episode and not _over(p, episode, step)]
        covering = [p for p in self._plans if p.about.episode == episode and p.about.step <= step]
        if not covering:
            return None
        self.answered = (episode, step)
        return episode, step, max(covering, key=lambda p: (p.about.source == HUMAN, p.about.seq))

    def _allowed(self, plan: Plan) -> bool:
        return plan.about.source != POLICY or (not self._human and plan.about.observed > self._released)


def action(plan: Plan, step: int) -> np.ndarray:
    """float64[A], of the control step `step`."""
    return plan.actions[step - plan.about.step]


def _over(plan: Plan, episode: int, step: int) -> bool:
    return plan.about.episode == episode and plan.about.step + len(plan.actions) <= step
