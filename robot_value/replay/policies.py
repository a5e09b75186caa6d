"""Does the policy know what the log did? The logged chunk beside the policy's candidates, decision by decision.

If the log came from this very policy, its chunk and the N candidates are N + 1 draws of one law, whatever happened
before. Then, with r the distance of a chunk to its nearest neighbour among the other N and V a critic's value,

    covered:  r_logged <= max_i r_i              has chance >= N / (N + 1)
    PIT:      u = (#{V_i < V_logged} + U (#{V_i = V_logged} + 1)) / (N + 1),  U ~ uniform     is uniform on (0, 1)

and the u of different decisions are independent, so that their tests need no resampling (Vovk et al. 2005, ch. 2).
Distances are those of chunk_space.py, in action ranges. Intervals are 95 %, from a bootstrap over whole episodes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..results import plain
from ..statistics import Interval
from . import by_episode, modes
from .action_error import Error, action_error
from .chunk_space import SAME, between, blocks, points
from .phases import Part, Phases, by_part, phases, relative_time
from .replayed import Replayed


@dataclass(frozen=True)
class Config:
    bins: int = 10  # of the PIT histogram and of relative time
    alpha: float = 0.05  # p-value from which on the candidates of a decision count as two groups
    resamples: int = 1000  # of a bootstrap over episodes
    seed: int = 0  # of the bootstrap and of U


@dataclass(frozen=True)
class Crowd:
    """How the logged chunk and the candidates lie to each other, a row per decision, in action ranges."""

    nearest: np.ndarray  # float64[D], logged chunk to its nearest candidate
    neighbour: np.ndarray  # float64[D], median candidate to its nearest neighbour: the scale; NaN if N = 1
    covered: np.ndarray  # float64[D], 1 where the logged chunk is no further out than the outermost candidate, else 0
    disagreement: np.ndarray  # float64[D], mean distance of two candidates; NaN if N = 1
    split: modes.Split


@dataclass(frozen=True)
class Coverage:
    share: Interval  # of decisions that are covered
    expected: float  # N / (N + 1), at least, if the log came from this policy
    nearest: Interval  # mean
    ratio: float  # median of nearest / neighbour; about 1 if the log came from this policy
    by_phase: tuple[Part, ...]  # share covered
    by_episode: np.ndarray  # float64[E], share covered
    uncovered: tuple[int, ...]  # episodes that this policy would hardly have produced, the clearest first


@dataclass(frozen=True)
class Rank:
    """Where the logged chunk's value lies among the candidates'; decisions whose chunk was cut short are left out."""

    decisions: int
    counts: np.ndarray  # int64[bins], histogram of u
    mean: Interval  # of u; 0.5 if the log came from this policy, above: the critic prefers what the log did
    chi2_p: float  # of the histogram against a flat one
    ks_p: float  # Kolmogorov-Smirnov of u against uniform


@dataclass(frozen=True)
class Modes:
    share: Interval  # of decisions whose candidates form two groups (p <= alpha)
    alpha: float  # the share to expect of one Gaussian
    gap: float  # median distance of the two groups where there are two, in action ranges; NaN where there are none
    by_phase: tuple[Part, ...]  # share
    by_time: tuple[Part, ...]


@dataclass(frozen=True)
class Disagreement:
    mean: Interval  # distance of two candidates, in action ranges
    by_time: tuple[Part, ...]
    by_phase: tuple[Part, ...]


@dataclass(frozen=True)
class Diagnosis:
    candidates: int  # N
    decisions: int  # D
    coverage: Coverage
    rank: Rank | None  # None without a critic, or without a decision that can be ranked
    modes: Modes
    disagreement: Disagreement
    error: Error
    crowd: Crowd
    phases: Phases

    def to_json(self) -> dict[str, Any]:
        """All but what has a number per decision."""
        found = asdict(self)
        del found["crowd"], found["phases"]
        return plain(found)


def diagnose(replayed: Replayed, config: Config = Config()) -> Diagnosis:
    """Raises ValueError where the replay has no candidates."""
    if not replayed.candidates.shape[1]:
        raise ValueError("expected candidates of a policy at every decision, got none; replay with a policy")
    drawn = by_episode.draws(len(replayed.episodes), config.resamples, config.seed)
    found, parts = crowd(replayed), phases(replayed)
    tenth = np.minimum(relative_time(replayed) * config.bins, config.bins - 1).astype(np.int64)
    times = [f"{100 * i // config.bins} %" for i in range(config.bins)]

    def in_parts(values: np.ndarray) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        by_time = by_part(values, tenth, times, replayed.episode, drawn)
        return by_time, by_part(values, parts.label, parts.names, replayed.episode, drawn)

    two = np.where(np.isfinite(found.split.p), found.split.p <= config.alpha, np.nan)
    share, apart = by_episode.mean(two, replayed.episode, drawn), found.split.gap[two == 1]
    two_by_time, two_by_phase = in_parts(two)
    return Diagnosis(
        candidates=replayed.candidates.shape[1],
        decisions=len(replayed),
        coverage=coverage(replayed, found, in_parts(found.covered)[1], drawn),
        rank=rank(replayed, found, drawn, config),
        modes=Modes(
            share.interval, config.alpha, float(np.median(apart)) if len(apart) else np.nan, two_by_phase, two_by_time
        ),
        disagreement=Disagreement(
            by_episode.mean(found.disagreement, replayed.episode, drawn).interval, *in_parts(found.disagreement)
        ),
        error=action_error(replayed, parts, drawn),
        crowd=found,
        phases=parts,
    )


def crowd(replayed: Replayed) -> Crowd:
    columns = [_crowd(replayed, rows) for rows in blocks(len(replayed))]
    nearest, neighbour, covered, disagreement, split = zip(*columns, strict=True)
    parts = [[getattr(one, name) for one in split] for name in modes.Split.__dataclass_fields__]
    plain_columns = (np.concatenate(column) for column in (nearest, neighbour, covered, disagreement))
    return Crowd(*plain_columns, modes.Split(*(np.concatenate(part) for part in parts)))


def coverage(replayed: Replayed, found: Crowd, by_phase: tuple[Part, ...], drawn: np.ndarray) -> Coverage:
    n, episodes = replayed.candidates.shape[1], len(replayed.episodes)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = found.nearest / found.neighbour
    known = np.isfinite(found.covered)
    count = np.bincount(replayed.episode[known], minlength=episodes)
    hits = np.bincount(replayed.episode[known], found.covered[known], episodes)
    return Coverage(
        share=by_episode.mean(found.covered, replayed.episode, drawn).interval,
        expected=n / (n + 1),
        nearest=by_episode.mean(found.nearest, replayed.episode, drawn).interval,
        ratio=float(np.median(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else np.nan,
        by_phase=by_phase,
        by_episode=np.divide(hits, count, out=np.full(episodes, np.nan), where=count > 0),
        uncovered=_uncovered(hits, count, n),
    )


def rank(replayed: Replayed, found: Crowd, drawn: np.ndarray, config: Config) -> Rank | None:
    if replayed.main is None:
        return None
    u = pit(replayed, found, np.random.default_rng(config.seed))
    known = u[np.isfinite(u)]
    if not len(known):
        return None
    counts = np.histogram(known, config.bins, (0, 1))[0]
    return Rank(
        decisions=len(known),
        counts=counts,
        mean=by_episode.mean(u, replayed.episode, drawn).interval,
        chi2_p=float(stats.chisquare(counts).pvalue),
        ks_p=float(stats.kstest(known, "uniform").pvalue),
    )


def pit(replayed: Replayed, found: Crowd, rng: np.random.Generator) -> np.ndarray:
    """float64[D], u; NaN where the chunk is shorter than what the critic judges, or something was not scored.

    Where a candidate *is* the logged chunk (the recorder drew the same noise) there are N draws, not N + 1.
    """
    opinion = replayed.opinions[replayed.main]
    value, logged = opinion.value, opinion.logged_value[:, None]
    same = np.where(found.nearest <= SAME, 1, 0)
    below = (value < logged - 1e-6 * np.abs(logged)).sum(1)  # 1e-6: float32 in batches of different shapes
    equal = (value <= logged + 1e-6 * np.abs(logged)).sum(1) - below
    equal = np.maximum(equal - same, 0)
    u = (below + rng.uniform(size=len(value)) * (equal + 1)) / (value.shape[1] + 1 - same)
    judged = np.isfinite(value).all(1) & np.isfinite(logged[:, 0]) & (replayed.length >= replayed.execute)
    return np.where(judged, u, np.nan)


def _crowd(replayed: Replayed, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, modes.Split]:
    both = np.concatenate([replayed.logged[rows, None], replayed.candidates[rows]], 1)
    both = points(both, replayed.spec, replayed.execute, replayed.length[rows])  # [D, 1 + N, F]; 0 is the log
    usable = np.isfinite(both).all(2)
    apart = between(both, both)
    apart[:, np.arange(both.shape[1]), np.arange(both.shape[1])] = np.inf
    apart = np.where(np.isfinite(apart), apart, np.inf)  # refused candidates are nobody's neighbour
    nearest, own = apart.min(2), apart[:, 1:, 1:]
    several = usable[:, 1:].sum(1) > 1  # bool[D]; else there is no scale
    outermost = np.where(usable, nearest, -np.inf)[:, 1:].max(1)
    neighbour = np.full(len(both), np.nan)
    neighbour[several] = np.nanmedian(np.where(usable[:, 1:], own.min(2), np.nan)[several], 1)
    pairs = np.isfinite(own)
    mean = np.where(pairs, own, 0.0).sum((1, 2)) / np.maximum(pairs.sum((1, 2)), 1)
    return (
        np.where(usable[:, 1:].any(1), nearest[:, 0], np.nan),
        neighbour,
        np.where(several, nearest[:, 0] <= outermost + SAME, np.nan),
        np.where(several, mean, np.nan),
        modes.split(both[:, 1:]),
    )


def _uncovered(hits: np.ndarray, count: np.ndarray, n: int) -> tuple[int, ...]:
    """Episodes that miss more often than chance: binomial, p <= 0.01 after Bonferroni over the episodes."""
    p = np.where(count > 0, stats.binom.cdf(hits, np.maximum(count, 1), n / (n + 1)), 1.0)
    order = np.argsort(p, kind="stable")
    return tuple(int(e) for e in order if p[e] * len(p) <= 0.01)
