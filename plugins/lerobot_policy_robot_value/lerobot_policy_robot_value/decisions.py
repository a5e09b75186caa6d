"""Every decision as JSON lines, for pandas: who was proposed, what it scored, what was chosen and why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from robot_value.types import Decision, Observation


class DecisionFile:
    """Appends, a line at a time. Scores that are not finite are null, because JSON has no NaN."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)

    def add(self, observation: Observation, decision: Decision) -> None:
        for row in range(observation.batch_size):
            about: dict[str, Any] = {
                "episode": int(observation.episode[row]),
                "step": int(observation.step[row]),
                "task": observation.task[row],
                "reason": decision.reason[row],
                "index": int(decision.index[row]),
                "execute": int(decision.execute[row]),
                "value": [_number(value) for value in decision.value[row]],
                "spread": [_number(value) for value in decision.spread[row]],
                "action": decision.chunk[row, 0].tolist(),
                "seconds": decision.seconds,
                "versions": decision.versions,
            }
            self._file.write(json.dumps(about, allow_nan=False) + "\n")


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
