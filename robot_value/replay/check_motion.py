"""Does every episode's robot answer its actions as all the others do? Flipped signs and shifted actions by likelihood.

One linear model of the whole log, errors Student t with 4 degrees of freedom, per state dimension that it explains:

    s_{t+1} - s_t = sum_l B_l a_{t-l} + C s_t + D (s_t - s_{t-1}) + c + e     LLR(h) = log p(ds | h) - log p(ds | as is)

h: an action dim or a sensor (a state dim, or a joint with its velocity) has the other sign, or actions belong one step
earlier or later. A likelihood ratio is an e-value: as recorded, P(LLR >= log 1/alpha) <= alpha (Markov), as far as the
model holds. Where it does not (an object that moves only when it is held), no episode refutes h either, and an episode
that is odd for another reason (a collision) stays so under h. So h is believed only if most episodes refute it, if it
explains a good part of what is odd about this one, and if no quarter of this one refutes it: bugs last, bumps do not.
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
EXPLAINS = 0.05  # share of an episode's -log p beyond that of the median unsuspected one that LLR(h) makes up for
LAGS = (3, 2, 1, 0, -1)  # steps from an action to its effect, in the order of time; -1: the effect comes first
MOST = 0.8  # share of episodes that must agree on the lag before the whole log is said to be shifted
EXPLAINED = 0.1  # R^2 from which on a state dimension is said to answer
TRIMMED = 0.1  # share of episodes, the least fitting ones, that the model is not fitted to
FREEDOM = 4.0  # of Student's t
SHORT, FIRST, LAST = 12, 4, 2  # steps: of an episode that is left out; before and after what is judged
PARTS = 4  # of an episode, none of which may refute a hypothesis as clearly as all of it speaks for it
FITTED = 1000  # episodes, evenly spread, that the model is fitted to
VELOCITY = "_velocity"  # ends the name of a velocity, which is otherwise that of the position
RIDGE = 1e-4  # per row, of standardised columns


@dataclass(frozen=True)
class Response:
    """The model of how the robot answers. X columns: the actions at each lag, the state, how it has moved, 1."""

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
    found: dict[str, list[str]] = defaultdict(list)
    for trace, what in zip(long, _suspicions(spec, model, long), strict=True):
        if what:
            found[what].append(trace.name)
    advice = "the robot's answer says so; correct the recording or leave these episodes out"
    return [*_everywhere(model), *(Finding(what, advice, tuple(names)) for what, names in found.items())]


def fit_response(traces: Sequence[Trace]) -> Response:
    """Twice: the episodes that fit least are left out of the second fit."""
    traces = traces[:: -(-len(traces) // FITTED)]
    onset = _onset([_rows(trace.states, trace.actions, LAGS) for trace in traces], traces[0].actions.shape[1])
    rows = [_rows(trace.states, trace.actions, range(onset, onset + 3)) for trace in traces]
    weights, scale = _fit(rows)
    loss = np.array([_loss(y - x @ weights, scale).mean() for x, y in rows])
    keep = np.argsort(loss, kind="stable")[: max(1, round((1 - TRIMMED) * len(rows)))]
    return Response(*_fit([rows[i] for i in np.sort(keep)]), onset)


def hypotheses(spec: Spec, model: Response, trace: Trace) -> Iterator[tuple[str, np.ndarray]]:
    """What may have happened to the episode ("": nothing), and -log p of its motion, float64[rows]."""
    x, change = _rows(trace.states, trace.actions, model.lags)
    error = change - x @ model.weights
    yield "", _loss(error, model.scale)
    for d, name in enumerate(_action_names(spec)):
        columns = np.arange(len(model.lags)) * spec.action_dim + d
        flipped = error + 2 * x[:, columns] @ model.weights[columns]
        yield f"action {name} has the other sign", _loss(flipped, model.scale)
    first = len(model.lags) * spec.action_dim
    for name, dims in _sensors(spec, np.isfinite(model.scale)):
        columns = np.concatenate([first + dims, first + len(spec.state_names) + dims])
        flipped = error + 2 * x[:, columns] @ model.weights[columns]
        flipped[:, dims] -= 2 * change[:, dims]
        yield f"state {name} has the other sign", _loss(flipped, model.scale)
    for shift, word in ((1, "late"), (-1, "early")):
        shifted = _rows(trace.states, trace.actions, [lag - shift for lag in model.lags])[0]
        yield f"actions are one step {word}", _loss(change - shifted @ model.weights, model.scale)


def _suspicions(spec: Spec, model: Response, traces: Sequence[Trace]) -> list[str]:
    """Per episode the hypothesis that is believed, or ""."""
    losses = [dict(hypotheses(spec, model, trace)) for trace in traces]
    told = list(losses[0])
    parts = np.array([[_in_parts(rows) for rows in each.values()] for each in losses])  # float64[E, hypotheses, PARTS]
    loss, clear = parts.sum(2), np.log((len(told) - 1) / ALPHA)
    ratio = loss[:, :1] - loss
    refuted = (parts - parts[:, :1]).max(2) > clear
    ratio[refuted | (np.quantile(ratio, REFUTED, axis=0) > -clear)] = -np.inf
    best, clearest = ratio.argmax(1), ratio.max(1)
    steps = np.array([len(trace.actions) for trace in traces])
    odd = loss[:, 0] - steps * np.median((loss[:, 0] / steps)[clearest <= clear])
    believed = (clearest > clear) & (clearest >= EXPLAINS * odd)
    return [told[h] if yes else "" for h, yes in zip(best, believed, strict=True)]


def _everywhere(model: Response) -> Iterator[Finding]:
    if model.onset < 0:
        what = "actions are one step late in the whole log: the robot moves before it is told to"
        yield Finding(what, "pair every action with the state that it was computed from")
    if model.onset > 0:
        what = f"actions are early in the whole log, or the robot answers {model.onset} steps late"
        yield Finding(what, "if it is not that slow: pair every action with the state that it acts on")


def _rows(states: np.ndarray, actions: np.ndarray, lags: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """X float64[rows, lags * A + 2 S + 1] and the change of state float64[rows, S], of an episode's inner steps."""
    t = np.arange(FIRST, min(len(actions), len(states) - 1) - LAST)
    moves = np.diff(states.astype(np.float64), axis=0)
    told = [actions[t - lag] for lag in lags]
    return np.concatenate([*told, states[t], moves[t - 1], np.ones((len(t), 1))], 1), moves[t]


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


# An expert that corrects what it sees tells by its next action how the state has just moved, as if the effect came
# first. So lags compete, the oldest first: an action counts by what it adds to the state and the actions before it.
def _onset(rows: Sequence[tuple[np.ndarray, np.ndarray]], action_dim: int) -> int:
    """The lag that adds most in most episodes; 0 where they do not agree."""
    x, y = (np.concatenate(each) for each in zip(*rows, strict=True))
    first = np.cumsum([0, *(len(each) for _, each in rows[:-1])])  # row of each episode
    past = np.arange(len(LAGS) * action_dim, x.shape[1])

    def unexplained(lags: int) -> np.ndarray:
        """float64[E, S], squares, by the oldest `lags` lags."""
        known = x[:, np.append(past, np.arange(lags * action_dim))]
        return np.add.reduceat((y - known @ _ridge(known, y)) ** 2, first, axis=0)

    left = np.stack([unexplained(lags) for lags in range(len(LAGS) + 1)])
    total = left.sum(1)
    answers = total[-1] < (1 - EXPLAINED) * len(y) * y.var(0)
    if not answers.any():
        return 0
    added = -(np.diff(left[:, :, answers], axis=0) / total[0, answers]).sum(2)  # float64[lags, E]
    votes = np.bincount(added.argmax(0), minlength=len(LAGS)) / len(rows)
    return LAGS[int(votes.argmax())] if votes.max() >= MOST else 0


def _loss(error: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """-log p, float64[rows], of errors float64[rows, S], up to a constant."""
    return (FREEDOM + 1) / 2 * np.log1p((error / scale) ** 2 / FREEDOM).sum(1)


def _in_parts(rows: np.ndarray) -> np.ndarray:
    """float64[PARTS], sums of float64[rows]."""
    return np.array([part.sum() for part in np.array_split(rows, PARTS)])


def _sensors(spec: Spec, answers: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Those of which a dimension answers: every state dimension, and every joint together with its velocity."""
    at = {name: d for d, name in enumerate(spec.state_names)}
    sensors = [(name, np.array([d])) for name, d in at.items()]
    both = [(name, f"{name}{VELOCITY}") for name in at if f"{name}{VELOCITY}" in at]
    sensors += [(f"{name} with its velocity", np.array([at[name], at[moving]])) for name, moving in both]
    return ((name, dims) for name, dims in sensors if answers[dims].any())


def _action_names(spec: Spec) -> list[str]:
    return [
        part.name if part.stop - part.start == 1 else f"{part.name}[{d}]"
        for part in spec.parts
        for d in range(part.stop - part.start)
    ]
