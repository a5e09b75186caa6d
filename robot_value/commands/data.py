"""`robot-value data inspect|verify PATH`: what is in an episode store, and whether it is sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import flags
from ..components import unknown
from ..episodes.inspect import inspect_command, verify_command


@dataclass(frozen=True)
class Inspect:
    """Episodes, steps, success, returns, keys, shapes, units and size of a store."""

    html: str | None = None  # write a self-contained page with plots and frames to this file (default: text only)


@dataclass(frozen=True)
class Verify:
    """Check every file of every episode against its manifest. Exit code 0: sound, 1: damaged."""


ACTIONS = {"inspect": Inspect, "verify": Verify}
USAGE = "usage: robot-value data inspect PATH [--html=FILE] | robot-value data verify PATH"


def run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    action, *rest = argv
    if action not in ACTIONS:
        raise flags.FlagError(unknown("data action", action, list(ACTIONS)))
    paths, rest = flags.positional(rest)
    config = flags.parse(ACTIONS[action], rest, prog=f"robot-value data {action}").values
    if len(paths) != 1:
        raise flags.FlagError(f"expected one PATH, got {len(paths)}; {USAGE}")
    if action == "verify":
        return verify_command(Path(paths[0]))
    return inspect_command(Path(paths[0]), Path(config.html) if config.html else None)
