"""Which action dims ever moved in the data. Along the others a critic's slope is steep and means nothing.

Models divide a dim by its recorded deviation, and one that stood still by next to nothing (normalize.SCALE_FLOOR), so
that it would outweigh all others wherever dims are compared by their limits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..normalize import SCALE_FLOOR
from ..types import Spec

STILL = 1e-3  # of a dim's half range; a recorded deviation up to this is noise of the robot, no motion


def ever_moved(spec: Spec, *models: Any) -> np.ndarray:
    """bool[A]: dims that moved in the data of every one of `models`; True where nobody measured them."""
    still = np.maximum(SCALE_FLOOR, STILL * (spec.high - spec.low) / 2)
    found = np.ones(spec.action_dim, bool)
    for model in models:
        statistics = getattr(getattr(model, "main", model), "statistics", {})  # main: of a panel
        if "action" in statistics:
            found &= statistics["action"].std > still
    return found
