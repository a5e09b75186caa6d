"""Every diagnosis of a pass, as sections of the page and as figures for results.json. No model is asked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from ..episodes.findings import Finding
from ..ope import estimate
from ..ope.chunks import Target
from . import (
    compare_critics,
    counterfactual,
    critics,
    mining,
    outliers,
    plots_critics,
    plots_mining,
    plots_ope,
    plots_policies,
    policies,
    prediction,
    sensitivity,
    warnings,
)
from .logs import Log
from .moments import Mark as Moment
from .replayed import Replayed
from .report import Mark, Section

WORDS = {  # kind of a moment -> what the page says
    "worse": "it came worse than the critic thought",
    "better": "it came better than the critic thought",
    "action": "the policy would not have done this",
    "onset": "the value falls and does not come back",
    "near_miss": "a success that nearly was none",
}


@dataclass(frozen=True)
class Diagnosis:
    """What one of them adds to the page and to results.json."""

    name: str  # key in results.json
    figures: Any  # JSON values
    sections: Sequence[Section] = ()
    findings: Sequence[Finding] = ()
    marks: Sequence[Mark] = ()  # the most interesting first
    limits: Mapping[str, np.ndarray] = field(default_factory=dict)  # critic -> float64[D], lowest normal value


def all_of(replayed: Replayed, log: Log, evaluation: bool = True) -> list[Diagnosis]:
    """In the order of the page. Those of a critic are left out where there is none, those that compare episodes where
    there is one episode."""
    makers: list[Callable[[Replayed], Diagnosis]] = [of_policy, of_mining]
    if replayed.main is not None:
        makers = [of_critics, of_predictions, of_inputs, of_comparison, *makers]
    if counterfactual.names(replayed):
        makers.append(of_alternatives)
    if len(replayed.episodes) > 1:
        makers += [of_outliers, *([of_evaluation] if evaluation else [])]
    return [of_warnings(replayed, log), *(make(replayed) for make in makers)]


def of_warnings(replayed: Replayed, log: Log) -> Diagnosis:
    found = warnings.warnings(replayed, log)
    return Diagnosis("warnings", [str(finding) for finding in found], findings=found)


def of_critics(replayed: Replayed) -> Diagnosis:
    found = {name: critics.diagnose(replayed, name) for name in replayed.opinions}
    section = Section("Is the critic right?", plots_critics.of_diagnoses(list(found.values())))
    skills = {name: each.calibration.skill for name, each in found.items()}
    findings = [
        Finding(
            f"critic {name} is further from what came than the mean return is "
            f"(skill {s.mean:.2f} [{s.low:.2f}, {s.high:.2f}])",
            "do not steer by it: was it trained on this task, with these rewards and this gamma?",
        )
        for name, s in skills.items()
        if s is not None and s.high < 0
    ]
    return Diagnosis("critics", {name: each.to_json() for name, each in found.items()}, [section], findings)


def of_predictions(replayed: Replayed) -> Diagnosis:
    found = {name: prediction.predict(replayed, name) for name in replayed.opinions}
    order = np.arange(len(replayed)) - np.searchsorted(replayed.episode, replayed.episode)  # in its episode
    bands = {name: each.alarms.floor for name, each in found.items() if each.alarms is not None}
    section = Section("Does it tell success from failure?", plots_critics.of_predictions(list(found.values())))
    return Diagnosis(
        "prediction",
        {name: each.to_json() for name, each in found.items()},
        [section],
        limits={name: floor[order.clip(max=len(floor) - 1)] for name, floor in bands.items()},
    )


def of_inputs(replayed: Replayed) -> Diagnosis:
    found = {name: sensitivity.sensitivity(replayed, name) for name in replayed.opinions}
    section = Section("Does it look at what it should?", plots_critics.of_sensitivities(list(found.values())))
    return Diagnosis("sensitivity", {name: sensitivity.to_json(each) for name, each in found.items()}, [section])


def of_comparison(replayed: Replayed) -> Diagnosis:
    found = compare_critics.compare(replayed)
    sections = [Section("Which critic is better?", plots_critics.of_comparison(found))] if found else []
    return Diagnosis("comparison", compare_critics.to_json(found), sections)


def of_policy(replayed: Replayed) -> Diagnosis:
    found = policies.diagnose(replayed)
    return Diagnosis("policy", found.to_json(), [Section("The policy", plots_policies.figures(found))])


def of_alternatives(replayed: Replayed) -> Diagnosis:
    found = counterfactual.diagnose(replayed)
    section = Section("What other selectors and gates would have done", plots_policies.counterfactual_figures(found))
    return Diagnosis("counterfactual", found.to_json(), [section])


def of_mining(replayed: Replayed) -> Diagnosis:
    found = mining.mine(replayed)
    section = Section("What deserves a look", plots_mining.figures(found))
    marks = _marks(replayed, found.marks)
    return Diagnosis("mining", found.to_json(), [section], findings=found.findings(), marks=marks)


def of_outliers(replayed: Replayed) -> Diagnosis:
    found = outliers.outliers(replayed)
    return Diagnosis(
        "outliers", found.to_json(), [Section("What is unlike the rest", plots_critics.of_outliers(found))]
    )


def of_evaluation(replayed: Replayed) -> Diagnosis:
    """Of the steered policy. The longest episode is taken for the time limit."""
    limit = max(episode.steps for episode in replayed.episodes)
    target = Target("success" if np.isfinite(replayed.success).any() else "reward", limit=limit)
    title, lines = "How good is the steered policy?", [f"From this log alone, for episodes of at most {limit} steps."]
    try:
        found = estimate.evaluate(replayed, target)
    except ValueError as error:  # decisions are not where it needs them
        return Diagnosis("evaluation", None, [Section(title, lines=[f"Not estimated: {error}."])])
    return Diagnosis("evaluation", found.to_json(), [Section(title, plots_ope.figures(found), lines)], found.findings)


def _marks(replayed: Replayed, moments: Sequence[Moment]) -> list[Mark]:
    """The first of every kind, then the second ones: scores of different kinds do not compare."""
    number = {episode.name: i for i, episode in enumerate(replayed.episodes)}
    rank = {kind: count(1) for kind in {mark.kind for mark in moments}}
    ranked = sorted(((next(rank[mark.kind]), mark) for mark in moments), key=lambda pair: pair[0])
    return [Mark(number[mark.episode], mark.step, f"{WORDS[mark.kind]} ({mark.score:.2g})") for _, mark in ranked]
