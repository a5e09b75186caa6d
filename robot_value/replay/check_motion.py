"""Does every episode's robot answer its actions as all the others do? Flipped signs and shifted actions by likelihood.

One linear model of the whole log, errors Student t with 4 degrees of freedom, per state dimension that it explains:

    s_{t+1} - s_t = sum_l B_l a_{t-l} + C s_t + c + e          LLR(h) = log p(ds | h) - log p(ds | as recorded)

h: an action dim or a state dim has the other sign, or actions belong one step earlier or later. A likelihood ratio is
an e-value: as recorded, P(LLR >= log 1/alpha) <= alpha (Markov), as far as the model holds. Where it does not hold (an
object that moves only when it is held), no episode refutes h either; so h is believed only if most episodes refute it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..episodes.findings import Finding
from ..types import Spec
from .survey import Trace

ALPHA = 0.0025  # chance of a false warning per episode, over all hypotheses: a quarter of one per 100 episodes
REFUTED = 0.9  # share of episodes that must speak against h as clearly as a suspect speaks for it
LAGS = (-1, 0, 1, 2)  # steps from an action to its effect that are looked at; -1: the effect comes first
ONSET = 0.25  # of the strongest lag's share, from which on a lag has an effect
EXPLAINED = 0.1  # R^2 from which on a state dimension is said to answer
TRIMMED = 0.1  # share of episodes, the least fitting ones, that the model is not fitted to
FREEDOM = 4.0  # of Student's t
SHORT, FIRST, LAST = 12, 4, 2  # steps: of an episode that is left out; before and after what is judged
FITTED = 1000  # episodes, evenly spread, that the model is fitted to
RIDGE = 1e-4  # per row, of standardised columns


@dataclass(frozen=True)
class Response:
    """The model of how the robot answers. X columns: the actions at each lag, the state, 1."""

    weights: np.ndarray  # float64[X, S]
    scale: np.ndarray  # float64[S], std of the errors; inf where the state does not answer
    onset: int  # steps from a recorded action to its first effect; 0 where all is well

    @property
    def lags(self) -> range:
        return range(self.onset, self.onset + 3)


def check_motion(spec: Spec, traces: Sequence[Trace]) -> list[Finding]:
    long = [trace for trace in traces if len(trace.actions) >= SHORT]
    model = fit_response(long) if len(long) >= 10 else None
    if model is None or not np.isfinite(model.scale).any():
        return []
    ratios = [dict(likelihood_ratios(spec, model, trace)) for trace in long]
    told = list(ratios[0])
    table = np.array([[each[what] for what in told] for each in ratios])  # float64[episodes, hypotheses]
    clear = np.log(len(told) / ALPHA)
    table[:, np.quantile(table, REFUTED, axis=0) > -clear] = -np.inf
    found: dict[str, list[str]] = defaultdict(list)
    for trace, best, ratio in zip(long, table.argmax(1), table.max(1), strict=True):
        if ratio > clear:
            found[told[best]].append(trace.name)
    advice = "the robot's answer says so; correct the recording or leave these episodes out"
    return [*_everywhere(model), *(Finding(what, advice, tuple(names)) for what, names in found.items())]


def fit_response(traces: Sequence[Trace]) -> Response:
    """Twice: the episodes that fit least are left out of the second fit."""
    traces = traces[:: -(-len(traces) // FITTED)]
    rows = [_rows(trace.states, trace.actions, LAGS) for trace in traces]
    onset = _onset(rows, traces[0].actions.shape[1])
    rows = [_rows(trace.states, trace.actions, range(onset, onset + 3)) for trace in traces]
    weights, scale = _fit(rows)
    loss = np.array([_loss(y - x @ weights, scale) / len(y) for x, y in rows])
    keep = np.argsort(loss, kind="stable")[: max(1, round((1 - TRIMMED) * len(rows)))]
    return Response(*_fit([rows[i] for i in np.sort(keep)]), onset)


def likelihood_ratios(spec: Spec, model: Response, trace: Trace) -> Iterator[tuple[str, float]]:
    """What may have happened to the episode, and its LLR."""
    x, change = _rows(trace.states, trace.actions, model.lags)
    error = change - x @ model.weights
    recorded = _loss(error, model.scale)
    for d, name in enumerate(_action_names(spec)):
        columns = np.arange(len(model.lags)) * spec.action_dim + d
        flipped = error + 2 * x[:, columns] @ model.weights[columns]
        yield f"action {name} has the other sign", recorded - _loss(flipped, model.scale)
    first = len(model.lags) * spec.action_dim
    for d in np.flatnonzero(np.isfinite(model.scale)):
        flipped = error + 2 * x[:, [first + d]] @ model.weights[[first + d]]
        flipped[:, d] -= 2 * change[:, d]
        yield f"state {spec.state_names[d]} has the other sign", recorded - _loss(flipped, model.scale)
    for shift, word in ((1, "late"), (-1, "early")):
        shifted = _rows(trace.states, trace.actions, [lag - shift for lag in model.lags])[0]
        yield f"actions are one step {word}", recorded - _loss(change - shifted @ model.weights, model.scale)


def _everywhere(model: Response) -> Iterator[Finding]:
    if model.onset < 0:
        what = "actions are one step late in the whole log: the robot moves before it is told to"
        yield Finding(what, "pair every action with the state that it was computed from")
    if model.onset > 0:
        what = f"actions are early in the whole log, or the robot answers {model.onset} steps late"
        yield Finding(what, "if it is not that slow: pair every action with the state that it acts on")


def _rows(states: np.ndarray, actions: np.ndarray, lags: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """X float64[rows, lags * A + S + 1] and the change of state float64[rows, S], of an episode's inner steps."""
    t = np.arange(FIRST, min(len(actions), len(states) - 1) - LAST)
    states = states.astype(np.float64)
    return np.concatenate([*(actions[t - lag] for lag in lags), states[t], np.ones((len(t), 1))], 1), (
        states[t + 1] - states[t]
    )


def _fit(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Ridge on standardised columns; weights float64[X, S] and scale float64[S]."""
    x, y = (np.concatenate(each) for each in zip(*rows, strict=True))
    weights = _ridge(x, y)
    error, total = (y - x @ weights).var(0), y.var(0)
    return weights, np.where(error < (1 - EXPLAINED) * total, np.sqrt(error + 1e-12 * total), np.inf)


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    unit = np.sqrt((x**2).mean(0)) + 1e-9
    gram = (x / unit).T @ (x / unit) + RIDGE * len(x) * np.eye(x.shape[1])
    return np.linalg.solve(gram, (x / unit).T @ y) / unit[:, None]


def _onset(rows: Sequence[tuple[np.ndarray, np.ndarray]], action_dim: int) -> int:
    """The first lag without which the change of state is explained clearly worse: log RSS, summed over the state."""
    x, y = (np.concatenate(each) for each in zip(*rows, strict=True))

    def unexplained(columns: np.ndarray) -> np.ndarray:
        return (y - x[:, columns] @ _ridge(x[:, columns], y)).var(0)

    everything = unexplained(np.arange(x.shape[1]))
    answers = everything < (1 - EXPLAINED) * y.var(0)
    lag = np.arange(x.shape[1]) // action_dim
    lost = [
        np.log(unexplained(np.flatnonzero(lag != i))[answers] / everything[answers]).sum() for i in range(len(LAGS))
    ]
    return LAGS[int(np.argmax(np.array(lost) >= ONSET * max(lost)))] if answers.any() else 0


def _loss(error: np.ndarray, scale: np.ndarray) -> float:
    """-log p of errors float64[rows, S], up to a constant."""
    return float((FREEDOM + 1) / 2 * np.log1p((error / scale) ** 2 / FREEDOM).sum())


def _action_names(spec: Spec) -> list[str]:
    return [
        part.name if part.stop - part.start == 1 else f"{part.name}[{d}]"
        for part in spec.parts
        for d in range(part.stop - part.start)
    ]
