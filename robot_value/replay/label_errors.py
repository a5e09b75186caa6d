"""Episodes whose success label contradicts how they ended, as the critic saw it.

    u_e = mean of V over the last LATE decisions       z_e = (u_e - median_c) / (1.4826 MAD_c),   c the class it is said
                                                       to be of, the sign such that towards the other class is positive

p_e = P(N(0, 1) > z_e), of which Benjamini and Hochberg (1995) keep a false discovery rate. Median and MAD bear the few
wrong labels among the right ones, which ranks within a class would not: p-values by rank are uniform by construction.
An odd episode is no wrong label: it must also be one that the other class would not reject at the level ODD, two-sided.
Where either class would not reject the other's median, the critic cannot tell them apart, and nobody is accused.

A critic that was trained on this very log has seen the labels it is asked about, and finds fewer errors: take one that
was trained on other episodes, or one per fold. Wrong labels are not found by a critic of another task at all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from .replayed import Replayed

LATE = 3  # decisions at the end that are averaged
LEAST = 5  # episodes of either class without which nothing is said
ODD = 0.01  # of a class's own episodes, if normal, that are too odd to be called members


@dataclass(frozen=True)
class LabelError:
    episode: str
    success: bool  # as labelled
    late_value: float  # u
    score: float  # z, deviations from its class towards the other
    p: float  # adjusted by Benjamini and Hochberg: the false discovery rate of a list that ends here

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def label_errors(replayed: Replayed, critic: str, rate: float = 0.05) -> tuple[LabelError, ...]:
    """At a false discovery rate of `rate`, the clearest first."""
    late, success = late_value(replayed, critic), replayed.success
    known = np.flatnonzero(np.isfinite(late) & np.isfinite(success))
    u, said = late[known], success[known] == 1
    if min(said.sum(), (~said).sum()) < LEAST:
        return ()
    won, lost = (_standardized(u, u[each]) for each in (said, ~said))
    bulk = stats.norm.isf(ODD / 2)
    if -np.median(won[~said]) < bulk or np.median(lost[said]) < bulk:
        return ()
    z = np.where(said, -won, lost)
    member = np.abs(np.where(said, lost, won)) < bulk  # of the other class
    p = benjamini_hochberg(stats.norm.sf(z))
    found = [
        LabelError(replayed.episodes[known[i]].name, bool(said[i]), float(u[i]), float(z[i]), float(p[i]))
        for i in np.flatnonzero((p <= rate) & member)
    ]
    return tuple(sorted(found, key=lambda error: -error.score))


def late_value(replayed: Replayed, critic: str) -> np.ndarray:
    """u float64[E]; NaN where the critic said nothing."""
    value = replayed.opinions[critic].logged_value.astype(float)
    return np.array([value[replayed.rows(e)][-LATE:].mean() for e in range(len(replayed.episodes))])


# p_(i) becomes min over j >= i of n p_(j) / j
def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values float64[n]: those <= q have a false discovery rate <= q."""
    order = np.argsort(-p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum.accumulate(np.minimum(1.0, p[order] * len(p) / np.arange(len(p), 0, -1)))
    return adjusted


def _standardized(u: np.ndarray, among: np.ndarray) -> np.ndarray:
    centre = np.median(among)
    return (u - centre) / max(1.4826 * np.median(np.abs(among - centre)), 1e-9)
