"""A writer to be killed: for each line on stdin, fork a child that appends episodes and acknowledges each on stdout.

Imports once and forks, so that 50 kills take seconds. Uses no zarr before forking: zarr starts threads.
"""

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from robot_value.episodes import EpisodeStore
from robot_value.episodes import store as store_module
from robot_value.types import ActionPart, Episode, Spec


def make_spec() -> Spec:
    arm = ActionPart("arm", 0, 3, "position", "m", (-1.0,) * 3, (1.0,) * 3)
    return Spec(parts=(arm,), state_names=("x", "y"), state_units=("m", "m"), dt=0.05)


def make_episode(spec: Spec, rng: np.random.Generator) -> Episode:
    steps = int(rng.integers(5, 60))
    return Episode(
        spec=spec,
        states=rng.normal(size=(steps + 1, 2)).astype(np.float32),
        images={},
        actions=rng.normal(size=(steps, 3)).astype(np.float32),
        rewards=np.zeros(steps, np.float32),
        terminated=True,
        truncated=False,
        success=True,
    )


def append_forever(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with EpisodeStore.open(path, "a") as store:
        os.write(1, b"opened\n")
        while True:
            name = store.append(make_episode(store.spec, rng))
            os.write(1, f"acknowledged {name} {store.manifest_hash(name)}\n".encode())


def copy_slowly(staged: Path, target: Path) -> None:
    """What `publish` would be without the one step: a kill may hit between two files."""
    for file in sorted(staged.rglob("*")):
        (target / file.relative_to(staged)).parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            shutil.copy(file, target / file.relative_to(staged))
            time.sleep(0.005)


def main() -> None:
    path = Path(sys.argv[1])
    if "--unprotected" in sys.argv:
        store_module.publish = copy_slowly
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            os.write(1, f"started {os.getpid()}\n".encode())
            append_forever(path, int(line))
        os.waitpid(pid, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
