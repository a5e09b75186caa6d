"""The words of the page: what was measured, in sentences that a figure can take back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .results_shape import missing_controls

SELECTORS = {
    "first": "the plain policy: one candidate, executed",
    "random": "one of {n} candidates at random, no critic",
    "medoid": "the candidate closest to all others, no critic",
    "mean": "the average of {n} candidates, no critic",
    "argmax": "the candidate with the critic's highest value",
    "argmin": "the candidate with the critic's lowest value: is its sign right?",
    "softmax": "a candidate drawn by the critic's value",
    "softmax_average": "the average of {n} candidates, weighted by the critic's value",
    "pessimistic": "the candidate with the highest value less the ensemble's spread",
    "climb": "the best candidates moved up the critic's gradient, then the highest",
    "coherent": "the candidate nearest to the last decision, no critic",
    "lexicographic": "the highest value among candidates of little risk",
    "blended": "the candidate with the highest mix of value and another critic's score",
}
CONTROLS = {
    "shuffled_critic": "as {selector}, with a critic trained on shuffled rewards",
    "success_only_critic": "as {selector}, with a critic that never saw a failure",
}

ADDITIONS = {  # control -> how it chooses, what of ours it lacks
    "mean": ("Averaging the candidates without any critic", "the critic"),
    "shuffled_critic": ("Choosing by a critic trained on shuffled rewards", "what the critic learned"),
}


def describe(name: str, arm: Mapping[str, Any]) -> str:
    """What the arm does, in one phrase."""
    control = next((text for key, text in CONTROLS.items() if name.startswith(key)), None)
    text = control or SELECTORS.get(arm.get("selector", ""), arm.get("selector", ""))
    usual = {"proposer": "samples", "guide": None, "gate": "always"}
    text += "".join(f"; {part} {arm[part]}" for part, plain in usual.items() if arm.get(part, plain) != plain)
    return text.format(n=arm.get("candidates", "N"), selector=str(arm.get("selector", "")).replace("_", " "))


def headline(results: Mapping[str, Any]) -> str:
    """One sentence about the recipe against the plain policy; it claims a gain or a loss only outside the interval."""
    difference = results["difference"]
    arm, base = results["arms"][difference["arm"]], results["arms"][difference["against"]]
    if difference["arm"] == difference["against"]:
        return (
            f"Validation chose the plain policy itself; it succeeds in {percent(base['success'])} of the test episodes."
        )
    low, high = difference["ci95"]
    levels = f"from {percent(base['success'])} to {percent(arm['success'])}"
    span = f"{points(difference['mean'])} points, {interval(low, high)}"
    name = f"Steering with {words(difference['arm'])}"
    if low > 0:
        return f"{name} raises success {levels} ({span})."
    if high < 0:
        return f"{name} lowers success {levels} ({span})."
    return f"No reliable difference: {name[0].lower()}{name[1:]} moves success {levels} ({span})."


def against_controls(results: Mapping[str, Any]) -> list[str]:
    """What the critic adds over averaging, which needs none, and over a critic that learned nothing, where measured."""
    recipe, found = results["difference"]["arm"], []
    for control, (way, adds) in ADDITIONS.items():
        pairs = (d for d in results.get("differences", ()) if (d["arm"], d["against"]) == (recipe, control))
        for difference in pairs:
            low, high = difference["ci95"]
            span = f"{points(difference['mean'])} points, {interval(low, high)}"
            reached = f"{way} reaches {percent(results['arms'][control]['success'])}"
            if low > 0:
                found.append(f"{reached}; {adds} adds to that ({span}).")
            elif high < 0:
                found.append(f"{reached}, more than with {adds} ({span}).")
            else:
                found.append(f"{reached}; that {adds} adds anything to it is not shown ({span}).")
    return found


def setting(results: Mapping[str, Any]) -> str:
    """How many episodes and seeds stand behind the figures."""
    training, arm = results["seeds"]["training"], results["arms"][results["difference"]["arm"]]
    first, last = results["seeds"]["test"]
    seeds = "1 training seed" if len(training) == 1 else f"{len(training)} training seeds"
    return (
        f"{results['task']}: {arm['n']} episodes per arm ({seeds}), every arm on the same test seeds {first}–{last}. "
        f"The recipe was chosen on validation seeds {'–'.join(map(str, results['seeds']['validation']))}, then fixed."
    )


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What a careful reader should know before believing the table."""
    arms, recipe, base = results["arms"], results["difference"]["arm"], results["difference"]["against"]
    found = []
    if missing := missing_controls(results):
        found.append(f"Controls that were not run: {', '.join(map(words, missing))}.")
    if "argmin" in arms and arms["argmin"]["success"] >= arms[base]["success"]:
        found.append(
            "The critic's worst candidate does as well as the plain policy: the critic does not order candidates."
        )
    for name, arm in arms.items():
        if name.startswith("shuffled_critic") and arm["success"] >= arms[recipe]["success"] and name != recipe:
            found.append(
                "A critic trained on shuffled rewards does as well: what is gained is not what the critic learned."
            )
    if len(results["seeds"]["training"]) < 3:
        found.append("Fewer than 3 training seeds: how much the gain depends on data and initialisation is not known.")
    if excluded := results.get("excluded_unstable_seeds"):
        found.append(
            f"{len(excluded)} test seeds left every arm because the simulator became unstable under one of them."
        )
    return found


def headroom(row: Mapping[str, Any]) -> str:
    """How much of what the best choice would have gained was found."""
    recovered = "an undefined share (the oracle gains nothing)"
    if row["recovered"] is not None:
        low, high = row["ci95_recovered"]
        bounds = f"{100 * low:.0f} to {percent(high, 0)}" if low is not None else "not bounded by these data"
        recovered = f"{percent(row['recovered'], 0)} (95\u00a0% interval {bounds})"
    rank = "unknown" if row["rank_correlation"] is None else f"{row['rank_correlation']:.2f}"
    arm = words(row.get("arm", "the selector"))
    beaten = row["recovered"] is not None and row["recovered"] > 1
    return (
        f"Continued with the {row['continuation']} policy, {arm} recovers {recovered} of what the best of "
        f"{row['candidates']} candidates would have gained. Rank correlation of value and success inside a decision: "
        f"{rank}; regret {points(row['regret'])} points."
        + (" More than all of it: with few rollouts the oracle's own choice is noisy." if beaten else "")
    )


def oracle(row: Mapping[str, Any]) -> str:
    """How the headroom was measured, and what it is not."""
    n = row["candidates"]
    return (
        f"{row['n_episodes']} episodes, {row.get('n_points', row['points'])} decision points on the plain path; "
        f"each candidate was executed from the saved state and continued {row['rollouts']} times with noise fixed per "
        "rollout. The best candidate is chosen on half of the rollouts and valued on the other half, so that luck does "
        "not flatter it; a chunk that is none of the candidates, such as an average, can beat it. A single decision "
        "looks small where whole episodes gain much, because small preferences compound. At least one of "
        f"{n} independent plain episodes succeeds from {percent(row['pass_at_n'])} of the starts (pass@{n}); that is "
        "no upper bound for choosing at every decision."
    )


def calibration(name: str, found: Mapping[str, Any]) -> str:
    """The two figures under the reliability diagram."""
    error = f"{words(name)}: expected calibration error {found['ece']:.3f} over {found['decisions']} decisions"
    if found["auroc_first_value"] is None:
        return f"{error}; all episodes ended alike, so that value cannot be ranked against success."
    share = percent(found["auroc_first_value"], 0)
    return f"{error}; at the first decision, a success has a higher value than a failure in {share} of pairs."


def p_value(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def percent(rate: float, digits: int = 1) -> str:
    return f"{100 * rate:.{digits}f}\u00a0%"  # a no-break space, as the international system of units wants it


def points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def interval(low: float, high: float) -> str:
    return f"95\u00a0% interval {points(low)} to {points(high)}"


def words(name: str) -> str:
    return name.replace("_", " ")
