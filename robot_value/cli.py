"""The `robot-value` command: one verb per file in robot_value/commands, errors as one clear line, exit code 2."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .components import UnknownComponent, unknown

VERBS = {
    "demo": "collect, train, choose a recipe, test on unseen seeds, write the page: the main job in one command",
    "collect": "drive a simulated robot by its scripted expert and store the episodes",
    "data": "inspect, verify, convert, label, merge, split, pack or repair episode stores",
    "train": "train a chunk policy or a chunk critic on an episode store",
    "adopt": "tell what a LeRobot checkpoint's numbers mean; it is a policy like any other from then on",
    "evaluate": "compare base, selectors and controls on the same seeds, and write results.json and report.html",
    "replay": "logged episodes in, an honest answer out: what steering would have chosen, and is the critic right",
    "mine": "from a replay to the next round of training: a smaller store, or weights",
    "robot": "check a real arm before anything moves: topics, rates, joints, cameras, contract, latency",
    "calibrate": "how confident must the critic be before it may act? the gate's threshold, from validation episodes",
    "serve": "answer decisions over the network: policy and critic on a machine with a GPU, robots elsewhere",
    "bench": "measure one of the published numbers on this machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"robot-value {__version__}")
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        return _fail(unknown("verb", verb, list(VERBS)))
    command = importlib.import_module(f"robot_value.commands.{verb}")
    try:
        return command.run(rest)
    except (ValueError, OSError, UnknownComponent) as error:
        return _fail(f"{error}")
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on where it stopped", code=130)


def usage() -> str:
    lines = ["usage: robot-value VERB [--flag=value ...]   (robot-value VERB --help lists every flag)", ""]
    return "\n".join(lines + [f"  {verb:<9} {what}" for verb, what in VERBS.items()])


def _fail(message: str, code: int = 2) -> int:
    print(f"robot-value: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
