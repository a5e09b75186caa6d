"""The quality dial: which faults a scripted expert makes, drawn once per episode.

An episode's recipe is its preset's; every field of Quality that is set takes precedence. The biased and the symmetric
preset follow shared/reference/demo_feasibility.md, sections 1, 1b and 3.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from robot_value.components import unknown

PREMATURE_M = (0.02, 0.05)  # how far before the grasp point the fingers close
RELEASE_M = (0.02, 0.10)  # how far from its place an object is let go
RELEASING = ("PickPlaceCan", "Stack", "NutAssemblySquare")  # tasks that end with letting go


@dataclass(frozen=True)
class Faults:
    """What was drawn for one episode. Missed grasps and early releases spoil the first attempt; a retry is clean."""

    grasp_offset_m: tuple[float, float] = (0.0, 0.0)  # world x, y by which the grasp misses its point
    premature_close_m: float = 0.0  # the fingers close this far before the grasp point
    early_release_m: float = 0.0  # the object is let go when it is this near to its place, horizontally
    gain: float = 1.0  # multiplies the servo's gains
    speed: float = 1.0  # largest translation action, 1 = a goal 5 cm ahead
    noise_sigma: float = 0.0  # std of the AR(1) noise on the actions
    retry: bool = True  # whether a failed attempt is followed by another


@dataclass(frozen=True)
class Recipe:
    """The distribution of one task's faults; the fields are Quality's."""

    p_offset: float = 0.0
    offset_m: float = 0.03
    symmetric: bool = False
    p_premature: float = 0.0
    p_early_release: float = 0.0
    gain_low: float = 1.0
    gain_high: float = 1.0
    speed_low: float = 1.0
    noise_sigma: tuple[float, ...] = (0.0,)
    p_retry: float = 1.0


@dataclass(frozen=True)
class Quality:
    """How well the scripted expert works. Fields left at None follow the preset."""

    # dial (see level), clean, mixed, biased_majority or symmetric (the two recipes of the demo study)
    preset: str = "dial"
    level: float = 1.0  # for preset dial: 1 is the clean expert, 0 the worst; mixed is level 0.5
    p_offset: float | None = None  # probability that the first grasp is displaced
    offset_m: float | None = None  # m; along world +x times U(.75, 1.25), or the std per axis where symmetric
    symmetric: bool | None = None  # grasps are displaced in all horizontal directions instead of along +x only
    p_premature: float | None = None  # probability that the fingers close 2-5 cm before the grasp point
    p_early_release: float | None = None  # probability that a carried object is let go 2-10 cm before its place
    gain_low: float | None = None  # servo gain, drawn uniformly between gain_low and gain_high; 1 is the tuned gain
    gain_high: float | None = None  # see gain_low
    speed_low: float | None = None  # largest translation action, drawn uniformly between speed_low and 1
    noise_sigma: tuple[float, ...] | None = None  # std of the AR(1) action noise, one of these is chosen per episode
    p_retry: float | None = None  # probability that a failed attempt is repeated rather than carried on with

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(unknown("quality preset", self.preset, list(PRESETS)))
        if not 0 <= self.level <= 1:
            raise ValueError(f"quality level: expected a number in [0, 1], got {self.level}")
        if self.level != 1 and self.preset != "dial":
            raise ValueError(f"quality level: preset {self.preset!r} has no level, got {self.level}; use preset 'dial'")
        recipe = self.recipe("")
        for name in ("p_offset", "p_premature", "p_early_release", "p_retry"):
            if not 0 <= getattr(recipe, name) <= 1:
                raise ValueError(f"quality {name}: expected a probability in [0, 1], got {getattr(recipe, name)}")
        sigmas = recipe.noise_sigma
        positive = 0 < recipe.gain_low <= recipe.gain_high and 0 < recipe.speed_low <= 1
        if not (positive and sigmas and min(sigmas) >= 0):
            raise ValueError(
                "quality: expected 0 < gain_low <= gain_high, 0 < speed_low <= 1 and at least one noise_sigma >= 0, "
                f"got {recipe.gain_low}, {recipe.gain_high}, {recipe.speed_low} and {sigmas}"
            )

    def recipe(self, task: str) -> Recipe:
        """The preset's recipe for this task, with the fields that are set here."""
        chosen = {f.name: value for f in fields(Recipe) if (value := getattr(self, f.name)) is not None}
        return replace(PRESETS[self.preset](task, self.level), **chosen)


def draw(quality: Quality, task: str, rng: np.random.Generator) -> Faults:
    """One episode's faults. The draws are always the same, so one probability does not change another fault's size."""
    recipe = quality.recipe(task)
    missed, premature, early, retry = (
        rng.random(4) < [recipe.p_offset, recipe.p_premature, recipe.p_early_release, recipe.p_retry]
    ).tolist()
    offset = _offset(recipe, rng)
    closing, letting_go = rng.uniform(*PREMATURE_M), rng.uniform(*RELEASE_M)
    return Faults(
        grasp_offset_m=offset if missed else (0.0, 0.0),
        premature_close_m=closing if premature else 0.0,
        early_release_m=letting_go if early and task in RELEASING else 0.0,
        gain=rng.uniform(recipe.gain_low, recipe.gain_high),
        noise_sigma=float(recipe.noise_sigma[rng.integers(len(recipe.noise_sigma))]),
        speed=rng.uniform(recipe.speed_low, 1.0),
        retry=retry,
    )


def _offset(recipe: Recipe, rng: np.random.Generator) -> tuple[float, float]:
    scale, (x, y) = rng.uniform(0.75, 1.25), rng.standard_normal(2).tolist()
    return (recipe.offset_m * x, recipe.offset_m * y) if recipe.symmetric else (recipe.offset_m * scale, 0.0)


def _dial(_task: str, level: float) -> Recipe:
    worse = 1 - level
    return Recipe(
        p_offset=0.6 * worse,
        symmetric=True,
        p_premature=0.3 * worse,
        p_early_release=0.4 * worse,
        gain_low=1 - 0.4 * worse,
        gain_high=1 + 0.2 * worse,
        speed_low=1 - 0.5 * worse,
        noise_sigma=(0.1 * worse, 0.2 * worse, 0.4 * worse),
        p_retry=level,
    )


def _biased_majority(task: str, _level: float) -> Recipe:
    """Most episodes make the same mistake, so that averaging candidates without a critic averages it in."""
    recipe = Recipe(0.7, 0.035, p_premature=0.15, gain_low=0.6, gain_high=1.2, noise_sigma=(0.1, 0.2, 0.3), p_retry=0)
    if task in RELEASING:
        return replace(recipe, p_offset=0.55, p_premature=0.2, p_early_release=0.3)
    return recipe


def _symmetric(task: str, level: float) -> Recipe:
    """Mistakes to all sides: the mean of many candidates is good without any critic."""
    return replace(_biased_majority(task, level), p_offset=0.5, offset_m=0.025, symmetric=True)


# name -> (task, level) -> Recipe
PRESETS = {
    "dial": _dial,
    "clean": lambda task, _level: _dial(task, 1.0),
    "mixed": lambda task, _level: _dial(task, 0.5),
    "biased_majority": _biased_majority,
    "symmetric": _symmetric,
}
