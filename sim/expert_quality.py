"""The quality dial: which faults a scripted expert makes, drawn once per episode.

The recipe of an episode is its preset's, with every field that is set explicitly taking precedence.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from robot_value.components import unknown

from .expert_common import Faults

CARRYING = ("PickPlaceCan", "Stack", "NutAssemblySquare")  # tasks with something to release


@dataclass(frozen=True)
class Recipe:
    """Distribution of one task's faults."""

    p_offset: float = 0.0
    offset_m: float = 0.0
    symmetric: bool = False
    p_premature: float = 0.0
    p_early_release: float = 0.0
    gain: tuple[float, float] = (1.0, 1.0)
    noise_sigma: tuple[float, ...] = (0.0,)
    p_retry: float = 1.0


@dataclass(frozen=True)
class Quality:
    """How well the scripted expert works. Fields left at None follow the preset."""

    preset: str = "dial"  # dial (see level), clean, mixed, biased_majority or symmetric (demo_feasibility.md 1, 1b)
    level: float = 1.0  # for preset "dial": 1 is the clean expert, 0 the worst; "mixed" is level 0.5
    p_offset: float | None = None  # probability that the first grasp is displaced
    offset_m: float | None = None  # m; along +x times U(.75, 1.25), or the std per axis where symmetric
    symmetric: bool | None = None  # offsets in all directions instead of along +x only
    p_premature: float | None = None  # probability that the fingers close 2-5 cm before the grasp point
    p_early_release: float | None = None  # probability that a carried object is let go on the way
    gain_low: float | None = None  # servo gain, drawn uniformly between low and high; 1 is the tuned gain
    gain_high: float | None = None  # see gain_low
    noise_sigma: tuple[float, ...] | None = None  # std of the AR(1) action noise, one is chosen per episode
    p_retry: float | None = None  # probability that a failed grasp is tried again rather than carried on with

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(unknown("quality preset", self.preset, list(PRESETS)))
        if not 0 <= self.level <= 1:
            raise ValueError(f"quality level: expected a number in [0, 1], got {self.level}")
        if self.level != 1 and self.preset != "dial":
            raise ValueError(f"quality level {self.level} needs preset 'dial', got preset {self.preset!r}; drop one of the two")

    def recipe(self, task: str) -> Recipe:
        recipe = PRESETS[self.preset](task, self.level)
        names = {f.name for f in fields(Recipe)} & {f.name for f in fields(Quality)}
        set_here = {name: value for name in names if (value := getattr(self, name)) is not None}
        low, high = recipe.gain
        gain = (low if self.gain_low is None else self.gain_low, high if self.gain_high is None else self.gain_high)
        return replace(recipe, gain=gain, **set_here)


def draw(quality: Quality, task: str, rng: np.random.Generator) -> Faults:
    """One episode's faults. Always the same number of draws, so a fault's size does not depend on the others."""
    recipe = quality.recipe(task)
    happens = rng.random(4) < [recipe.p_offset, recipe.p_premature, recipe.p_early_release, recipe.p_retry]
    offset = _offset(recipe, rng)
    premature, release, gain = rng.uniform(0.02, 0.05), rng.uniform(*RELEASE_M), rng.uniform(*recipe.gain)
    sigma = recipe.noise_sigma[rng.integers(len(recipe.noise_sigma))]
    return Faults(
        grasp_offset_m=offset if happens[0] else (0.0, 0.0),
        premature_close_m=premature if happens[1] else 0.0,
        early_release_m=release if happens[2] and task in CARRYING else 0.0,
        gain=gain,
        noise_sigma=float(sigma),
        retry=bool(happens[3]),
    )


RELEASE_M = (0.05, 0.15)  # how far from its place an object is let go


def _offset(recipe: Recipe, rng: np.random.Generator) -> tuple[float, float]:
    scale, (x, y) = rng.uniform(0.75, 1.25), rng.standard_normal(2)
    if recipe.symmetric:
        return (recipe.offset_m * x, recipe.offset_m * y)
    return (recipe.offset_m * scale, 0.0)


def _dial(_task: str, level: float) -> Recipe:
    worse = 1 - level
    return Recipe(
        p_offset=0.6 * worse,
        offset_m=0.03,
        symmetric=True,
        p_premature=0.3 * worse,
        p_early_release=0.4 * worse,
        gain=(1 - 0.4 * worse, 1 + 0.2 * worse),
        noise_sigma=(0.1 * worse, 0.2 * worse, 0.4 * worse),
        p_retry=level,
    )


def _biased_majority(task: str, _level: float) -> Recipe:
    """Most episodes make the same mistake, so averaging without a critic averages the mistake in."""
    base = Recipe(p_offset=0.7, offset_m=0.035, p_premature=0.15, gain=(0.6, 1.2), noise_sigma=(0.1, 0.2, 0.3), p_retry=0)
    if task == "Lift":
        return base
    return replace(base, p_offset=0.55, p_premature=0.2, p_early_release=0.3)


def _symmetric(task: str, _level: float) -> Recipe:
    """Mistakes in all directions: the mean of many candidates is good without any critic."""
    return replace(_biased_majority(task, 1), p_offset=0.5, offset_m=0.025, symmetric=True)


PRESETS = {
    "dial": _dial,
    "clean": lambda task, _level: _dial(task, 1.0),
    "mixed": lambda task, _level: _dial(task, 0.5),
    "biased_majority": _biased_majority,
    "symmetric": _symmetric,
}
