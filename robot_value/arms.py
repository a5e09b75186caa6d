"""The arms every study plays: what may be chosen on validation seeds, and the controls a table must carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import components
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


NAMED = {"risk": "lexicographic", "count": "blended", "prior": "blended", "preference": "blended"}  # score -> reader
GUIDES = ("gradient", "particles", "halving")  # those that go by the critic; each is followed by the recipe's selector
PROPOSERS = ("temperature", "gaussian", "tail")  # those that need nothing but the policy
GATES = ("disagreement", "spread", "jump")  # those that need no calibration


def every(n: int, temperature: float, critics: Sequence[str]) -> list[Arm]:
    """Every way to use these critics, each with its defaults, controls included: selectors with samples of the policy;
    guides, proposers and gates each with softmax_average; selectors of a named score where a critic gives it."""
    average = Arm("softmax_average", "softmax_average", {"temperature": temperature}, n, critic=MAIN)
    arms = [Arm("base")]
    for name in components.names("selectors"):
        if name not in ("first", "softmax_average", *NAMED.values()):
            selector = components.load("selectors", name).Config().build()
            arms.append(Arm(name, name, n=n, critic=MAIN if selector.uses_critic else None))
    arms.append(average)
    arms += [replace(average, name=f"guide_{name}", guide=name) for name in GUIDES]
    arms += [replace(average, name=f"proposer_{name}", proposer=name) for name in PROPOSERS]
    arms += [replace(average, name=f"gate_{name}", gate=name) for name in GATES]
    for score, reader in NAMED.items():
        if score in critics:
            options = {"score": score} if reader == "blended" else {}
            arms.append(Arm(f"{reader}_{score}", reader, options, n, critic=MAIN, also={score: score}))
    if SHUFFLED in critics:
        arms.append(replace(average, name="shuffled_critic", critic=SHUFFLED))
    return arms


def asked_for(names: Sequence[str], n: int, temperature: float, critics: Sequence[str]) -> list[Arm]:
    """Those of `every` that are named; "all" names them all."""
    arms = {arm.name: arm for arm in every(n, temperature, critics)} if names else {}
    for name in names:
        if name != "all" and name not in arms:
            raise components.UnknownComponent(components.unknown("arm", name, [*arms, "all"]))
    return list(arms.values()) if "all" in names else [arms[name] for name in names]
