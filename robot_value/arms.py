"""The arms every study plays: what may be chosen on validation seeds, and the controls a table must carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .evaluate import Arm, Comparison

MAIN, SHUFFLED, SUCCESS_ONLY = "main", "shuffled", "success_only"  # names of a study's critics


def candidates(counts: Sequence[int], temperatures: Sequence[float]) -> list[Arm]:
    """What a recipe is chosen among: argmax, and softmax_average at every temperature, each at every N."""
    arms = [Arm(f"argmax_{n}", "argmax", n=n, critic=MAIN) for n in counts]
    for t in temperatures:
        name = "softmax_average" if len(temperatures) == 1 else f"softmax_average_T{t:g}"
        arms += [Arm(f"{name}_{n}", "softmax_average", {"temperature": t}, n, critic=MAIN) for n in counts]
    return arms


def best(validation: Comparison, selector: str) -> Arm:
    """The arm of one selector with most successes on validation seeds; ties go to fewer candidates."""
    arms = [result.arm for result in validation.arms.values() if result.arm.selector == selector]
    return max(arms, key=lambda arm: (int(validation.success(arm.name).sum()), -arm.n))


def by_selector(arm: Arm) -> Arm:
    """Validation names say N ("argmax_16"); in the test table the arm is called like its selector."""
    return replace(arm, name=arm.selector)


def test_arms(argmax: Arm, average: Arm, recipe: Arm, critics: Sequence[str]) -> list[Arm]:
    """Base, selectors and controls. Critic-free controls take the recipe's N, both selectors the N chosen for them."""
    n = recipe.n
    wrong = {"shuffled_critic": SHUFFLED, "success_only_critic": SUCCESS_ONLY}
    return [
        Arm("base"),
        *(Arm(name, name, n=n) for name in ("random", "medoid", "mean")),
        by_selector(argmax),
        Arm("softmax", "softmax", dict(average.options), n, critic=MAIN),
        by_selector(average),
        Arm("argmin", "argmin", n=n, critic=MAIN),
        *(replace(recipe, name=name, critic=critic) for name, critic in wrong.items() if critic in critics),
    ]
