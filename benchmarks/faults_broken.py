"""Our nodes with one callback that raises or sleeps: python faults_broken.py guard raise 3 --ros-args ...

Callbacks are counted as the node makes them; which one it is stands in the first line of the output. With `unsafe`
after the number, exceptions of callbacks are not caught (the control).
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from robot_value.ros_nodes.managed import ManagedNode

SLOW = 0.35  # s


class Ordered(RuntimeError):
    """What the broken callback raises."""


def broken(what: str, which: int) -> Callable[[str, Callable], Callable]:
    """(name, callback) -> the callback, or the broken one where it is number `which`."""
    made: list[str] = []

    def instead(name: str, callback: Callable) -> Callable:
        made.append(name)
        if len(made) - 1 != which:
            return callback
        print(f"broken: {name}", flush=True)

        def spoiled(*arguments: Any) -> Any:
            if what == "raise":
                raise Ordered(f"ordered in {name}")
            time.sleep(SLOW)
            return callback(*arguments)

        return spoiled

    return instead


def main() -> None:
    node, what, which, *unsafe = sys.argv[1 : sys.argv.index("--ros-args")]
    del sys.argv[1 : sys.argv.index("--ros-args")]
    instead = broken(what, int(which))
    listen, serve, every = ManagedNode.listen, ManagedNode.serve, ManagedNode.every
    ManagedNode.listen = lambda self, kind, topic, callback, qos, **more: listen(
        self, kind, topic, instead(topic, callback), qos, **more
    )
    ManagedNode.serve = lambda self, kind, name, answer: serve(self, kind, name, instead(name, answer))
    ManagedNode.every = lambda self, period, callback: every(
        self, period, instead(f"timer of {period:g} s, {callback.__name__}", callback)
    )
    if unsafe:
        ManagedNode.safe = lambda self, callback: callback
    importlib.import_module(f"robot_value.ros_nodes.{node}_node").main()


if __name__ == "__main__":
    main()
