"""Stand-ins for vision-language models, and the world they look at: a point whose place is the colour of the image.

States are x, y in [0, 1] (m); an image is red where x is large and green where y is large, blue is 255 everywhere.
"""

from __future__ import annotations

import numpy as np

from robot_value.types import ActionPart, Camera, Episode, Spec

SIZE = 4  # pixels, height and width


def spec(cameras: tuple[str, ...] = ("front",)) -> Spec:
    move = ActionPart("move", 0, 2, "position", "m", (-1, -1), (1, 1), reference="current")
    views = tuple(Camera(name, SIZE, SIZE) for name in cameras)
    return Spec((move,), ("x", "y"), ("m", "m"), dt=0.1, cameras=views)


def picture(states: np.ndarray) -> np.ndarray:
    """states [F, 2] -> uint8[F, SIZE, SIZE, 3]."""
    colours = np.concatenate([np.clip(states, 0, 1) * 255, np.full((len(states), 1), 255)], 1).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours[:, None, None], (len(states), SIZE, SIZE, 3)))


def episode(states: np.ndarray, steps: int | None = None, **changes) -> Episode:
    """Through these states [F, 2]; actions are the steps between them. F - 1 actions, or F where steps = F."""
    states = np.asarray(states, np.float32)
    steps = len(states) - 1 if steps is None else steps
    actions = np.diff(states, axis=0, append=states[-1:])[:steps]
    fields = {"rewards": np.zeros(steps, np.float32), "terminated": False, "truncated": True, "success": None}
    fields |= {"spec": spec(), "states": states, "images": {"front": picture(states)}, "actions": actions}
    return Episode(**fields | changes)


def line(frames: int = 12, start: float = 0.0, stop: float = 1.0, **changes) -> Episode:
    """Straight to the right."""
    return episode(np.stack([np.linspace(start, stop, frames), np.full(frames, 0.5)], 1), **changes)


def wander(seed: int, steps: int = 40, low: float = 0.0, high: float = 1.0, **changes) -> Episode:
    """Anywhere in [low, high] x [0, 1], independent from step to step."""
    states = np.random.default_rng(seed).uniform((low, 0), (high, 1), (steps + 1, 2))
    return episode(states, **changes)


def passes(*episodes: Episode):
    """What a labeler's `fit` gets."""
    return lambda: iter([(f"{i:08d}-0000", each) for i, each in enumerate(episodes)])


# -- progress ---------------------------------------------------------------------------------------------------------


def progress(images, task):
    return images[:, 0, 0, 0] / 255


def cubed(images, task):
    return (images[:, 0, 0, 0] / 255) ** 3


def by_position(images, task):
    """Does not look: what is shown later is further."""
    return np.linspace(0, 1, len(images))


def blind(images, task):
    return [0.5] * len(images)


def percent(images, task):
    return 100 * progress(images, task)


def one_short(images, task):
    return progress(images, task)[1:]


def not_a_number(images, task):
    return np.full(len(images), np.nan)


def words(images, task):
    return ["half way"] * len(images)


# -- preferences ------------------------------------------------------------------------------------------------------

WEIGHTS = np.array([2.0, -1.0, 0.0])  # how good red, green and blue are


def goodness(images):
    """uint8[..., h, w, 3] -> float64[...]."""
    return images[..., 0, 0, :] / 255 @ WEIGHTS


def judge(first, second, task):
    return np.sign(goodness(second).sum() - goodness(first).sum())


def unsure_judge(first, second, task):
    """Sees only large differences."""
    lead = goodness(second).sum() - goodness(first).sum()
    return int(np.sign(lead)) if abs(lead) > 0.5 else 0


def task_judge(first, second, task):
    """Likes red where the task is "right", and the opposite elsewhere."""
    return judge(first, second, task) if task == "right" else -judge(first, second, task)


def indifferent_judge(first, second, task):
    return 0


def enthusiastic_judge(first, second, task):
    return 2


# -- embeddings and whole episodes ------------------------------------------------------------------------------------


def colours(images):
    return images.mean((1, 2)) / 255


def darkness(images):
    return np.zeros((len(images), 3))


def name_of_a_colour(task):
    return {"red": [1, 0, 0], "green": [0, 1, 0]}[task]


def short_name(task):
    return [1.0, 0.0]


def to_the_right(episode):
    return episode.actions[:, 0]


def one_too_many(episode):
    return np.zeros(len(episode) + 1)


not_a_function = 7
