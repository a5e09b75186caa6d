"""What in a log or a critic would lead astray. The budget: at most 1 false warning per 100 clean episodes.

A warning names the episodes to look at; without any it is about the whole log or about a critic.
"""

from __future__ import annotations

from ..episodes.findings import Finding, judge
from ..types import Spec
from .check_critic import check_critics
from .check_labels import check_labels
from .check_motion import check_motion
from .logs import Log
from .replayed import Replayed
from .survey import Survey, survey


def warnings(replayed: Replayed, log: Log) -> list[Finding]:
    """Reads every replayed episode once more, for the states and pictures that a Replayed does not hold."""
    seen = survey(log, [episode.name for episode in replayed.episodes])
    return [*check_critics(replayed, seen.traces), *warnings_of_data(replayed.spec, seen)]


def warnings_of_data(spec: Spec, seen: Survey) -> list[Finding]:
    """Those for which no model is asked."""
    return [*check_motion(spec, seen.traces), *check_labels(seen.traces), *judge(spec, seen.measures, seen.frames)]
