"""From the cells of `bench_steering` to its tables: paired differences, non-inferiority, headroom, success by N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robot_value.oracle import Tried, oracle, summarise
from robot_value.statistics import holm, mcnemar, noninferiority, paired_difference, wilson

MARGIN = 0.05  # of non-inferiority, success
HEADROOM = 0.10  # pairs with less are not asked how much of it was recovered
LEAST_EPISODES = 5  # per pair, below which a share of the headroom says nothing
GOAL = 0.4  # share of the headroom that the recipe should recover on average
Outcomes = Mapping[str, np.ndarray]  # arm -> bool[R, S] on the seeds that stayed stable under all of them


def outcomes(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """`parts`: the same part of every training seed's cell. A seed that broke under any arm leaves all of them."""
    names = list(parts[0]["arms"])
    unstable = np.any([[part["arms"][name]["unstable"] for part in parts] for name in names], (0, 1))
    return {name: np.array([part["arms"][name]["success"] for part in parts], bool)[:, ~unstable] for name in names}


def rate(success: np.ndarray) -> dict[str, Any]:
    found = wilson(int(success.sum()), success.size)
    return {"success": found.mean, "n": int(success.size), "ci95": found.ci95}


def difference(found: Outcomes, arm: str, against: str) -> dict[str, Any]:
    interval = paired_difference(found[arm], found[against])
    return {
        "arm": arm,
        "against": against,
        "mean": interval.mean,
        "ci95": interval.ci95,
        "p_mcnemar": mcnemar(found[arm], found[against]),
    }


def mean_of(parts: Sequence[Mapping[str, Any]], arm: str, what: str) -> float:
    return float(np.mean([part["arms"][arm][what] for part in parts]))


def selectors(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every arm of the table with its paired difference from the plain policy."""
    found = outcomes(parts)
    about = parts[0]["arms"]
    return {
        name: {
            **rate(found[name]),
            "selector": about[name]["arm"]["selector"],
            "gate": about[name]["arm"]["gate"],
            "candidates": about[name]["arm"]["n"],
            "abstained": mean_of(parts, name, "abstained"),
            "minus_base": None if name == "base" else difference(found, name, "base"),
        }
        for name in found
    }


def gated(tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What results.json says first: the recipe with its own critic behind the calibrated gate, against base."""
    found = outcomes(tests)
    share = {"gate": "calibrated", "abstained": mean_of(tests, "gated_main", "abstained")}
    arms = {"base": rate(found["base"]), "gated": {**rate(found["gated_main"]), **share}}
    gap = difference(found, "gated_main", "base") | {"arm": "gated", **share}
    return {"arms": {name: {"minus_base": None, **arm} for name, arm in arms.items()}, "difference": gap}


def with_ungated(
    tests: Sequence[Mapping[str, Any]], ungated: Sequence[Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    """The test with the arms that were played for comparison only, where they were."""
    return [
        {**test, "arms": {**test["arms"], **(more or {"arms": {}})["arms"]}}
        for test, more in zip(tests, ungated, strict=True)
    ]


def no_harm(pair: str, critic: str, gates: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> dict:
    """One pair and critic behind its calibrated gate; `p_noninferior` is not corrected yet."""
    found, gated = outcomes(tests), f"gated_{critic}"
    kept, trials = difference(found, gated, "base"), [gate["critics"][critic]["trials"] for gate in gates]
    ungated = difference(found, f"recipe_{critic}", "base") if f"recipe_{critic}" in found else None
    significant = ungated is not None and ungated["ci95"][0] > 0
    return {
        "pair": pair,
        "critic": critic,
        "gate": "calibrated",
        "n": int(found["base"].size),
        "base": rate(found["base"]),
        "ungated": ungated,  # None where it was not played
        "ungated_on_validation": [{"gain": t[0]["gain"], "n": t[0]["n"]} for t in trials],
        "gated": {**kept, "gate": "calibrated", "abstained": mean_of(tests, gated, "abstained")},
        "thresholds": [gate["critics"][critic]["threshold"] for gate in gates],
        "trials": trials,
        "p_noninferior": noninferiority(found[gated], found["base"], MARGIN),
        "share_of_gain_kept": kept["mean"] / ungated["mean"] if significant else None,
    }


def corrected(rows: list[dict[str, Any]], alpha: float = 0.05) -> list[dict[str, Any]]:
    """Holm over all pairs and critics."""
    adjusted = holm([row["p_noninferior"] for row in rows]) if rows else []
    return [{**row, "p_holm": float(p), "noninferior": bool(p < alpha)} for row, p in zip(rows, adjusted, strict=True)]


def by_n(parts: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found, curves = outcomes(parts), {}
    for name, success in found.items():
        way, _, n = name.rpartition("_")
        curves.setdefault(way, []).append({"candidates": int(n), **rate(success)})
    return curves


def headroom(parts: Sequence[Mapping[str, Any]], candidates: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by continuation, all training seeds together."""
    alone = np.array([row for part in parts for row in part["alone"]], bool)
    return {
        name: {
            **about,
            "continuation": name,
            "candidates": candidates,
            **summarise(tried(parts, name), alone, candidates),
        }
        for name in ("base", "steered")
    }


def tried(parts: Sequence[Mapping[str, Any]], continuation: str) -> list[Tried]:
    """An episode of another training seed is another episode."""
    return [
        Tried(1_000_000 * r + t["seed"], t["decision"], np.array(t["success"]), known(t["value"]), t["selected"])
        for r, part in enumerate(parts)
        for t in part["trials"][continuation]
    ]


def known(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def gains(points: Sequence[Tried], candidates: int) -> np.ndarray:
    """float64[episodes, 2]: the recipe's chunk minus the first one, the best of N minus the first one."""
    both = [[p.success[p.selected].mean(), oracle(p.success[:candidates])] - p.success[0].mean() for p in points]
    seeds = np.array([point.seed for point in points])
    return np.array([np.array(both)[seeds == seed].mean(0) for seed in dict.fromkeys(seeds.tolist())])


def recovered(
    pairs: Mapping[str, Sequence[Mapping[str, Any]]], designed_on: Sequence[str], candidates: int, resamples: int = 4000
) -> dict[str, Any]:
    """Share of the headroom that the recipe recovers: mean over the pairs with at least 10 points of it.

    The interval resamples the episodes (of all training seeds) within every pair.
    """
    found = {pair: gains(tried(parts, "steered"), candidates) for pair, parts in pairs.items()}
    enough = {pair: gain for pair, gain in found.items() if len(gain) >= LEAST_EPISODES}
    asked = {pair: gain for pair, gain in enough.items() if gain[:, 1].mean() >= HEADROOM}
    new, few = [pair for pair in asked if pair not in designed_on], [pair for pair in found if pair not in enough]
    about = {"goal": GOAL, "least_headroom": HEADROOM, "least_episodes": LEAST_EPISODES, "too_few_episodes": few}
    if not asked:
        return {**about, "pairs": {}, "not_used_to_design": [], "mean": None, "ci95": None, "shown": False}
    shares = {pair: share(gain) for pair, gain in asked.items()}
    rng = np.random.default_rng(0)
    drawn = [np.mean([share(g[rng.integers(0, len(g), len(g))]) for g in asked.values()]) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    mean = float(np.mean(list(shares.values())))
    shown = mean >= GOAL and low > 0 and len(new) >= 2
    return {**about, "pairs": shares, "not_used_to_design": new, "mean": mean, "ci95": [low, high], "shown": shown}


def share(gain: np.ndarray) -> float:
    """gain [episodes, 2]; NaN where a resample has no headroom at all."""
    recipe, best = gain.mean(0)
    return float(recipe / best) if best > 0 else float("nan")
