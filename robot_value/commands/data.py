"""`robot-value data ACTION PATH ...`: look at, check, convert, label, encode and rearrange episode stores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .. import flags
from ..components import unknown
from ..episodes import StoreError
from . import _change, _convert, _features, _look


@dataclass(frozen=True)
class Action:
    """One verb: its flags, its paths and what it does."""

    flags: type
    run: Callable[[Sequence[str], flags.Parsed], int]
    paths: tuple[str, ...] = ("STORE",)  # a last one that ends in "..." may come several times
    choices: Callable[[Sequence[str], Sequence[str]], Mapping[str, flags.Choice]] = field(
        default=lambda paths, argv: {}
    )

    def usage(self, name: str) -> str:
        return f"robot-value data {name} {' '.join(self.paths)}"

    def fits(self, n: int) -> bool:
        return n >= len(self.paths) if any(path.endswith("...") for path in self.paths) else n == len(self.paths)


def _exporters(paths: Sequence[str], argv: Sequence[str]) -> dict[str, flags.Choice]:
    return {"target": flags.Choice("exporters", None)}


def _labelers(paths: Sequence[str], argv: Sequence[str]) -> dict[str, flags.Choice]:
    return {"labeler": flags.Choice("labelers", None)}


ACTIONS: Mapping[str, Action] = {
    "inspect": Action(_look.Inspect, _look.inspect),
    "verify": Action(_look.Verify, _look.verify),
    "stats": Action(_look.Stats, _look.stats),
    "convert": Action(_convert.Convert, _convert.convert, ("DATASET", "STORE"), _convert.source_choice),
    "export": Action(_convert.Export, _convert.export, ("STORE", "DATASET"), _exporters),
    "pack": Action(_convert.Pack, _convert.pack, ("STORE", "DATASET")),
    "label": Action(_change.Label, _change.label, ("STORE",), _labelers),
    "features": Action(_features.Features, _features.features),
    "merge": Action(_change.Merge, _change.merge, ("STORE ...", "TARGET")),
    "split": Action(_change.Split, _change.split, ("STORE", "TARGET=SHARE ...")),
    "repair": Action(_change.Repair, _change.repair),
    "migrate": Action(_change.Migrate, _change.migrate),
}


def run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = argv
    if name not in ACTIONS:
        raise flags.FlagError(unknown("data action", name, list(ACTIONS)))
    action = ACTIONS[name]
    paths, rest = flags.positional(rest)
    if not {"-h", "--help"} & set(rest) and not action.fits(len(paths)):
        raise flags.FlagError(f"expected {action.usage(name)}, got {len(paths)} paths")
    parsed = flags.parse(action.flags, rest, action.choices(paths, rest), f"robot-value data {name}")
    try:
        return action.run(paths, parsed)
    except StoreError as error:  # one line, as everywhere; 1 is what scripts look for
        print(error, file=sys.stderr)
        return 1


def usage() -> str:
    lines = [
        f"  {action.usage(name):<54} {(action.flags.__doc__ or '').splitlines()[0]}" for name, action in ACTIONS.items()
    ]
    return "\n".join(["usage: robot-value data ACTION PATH ... [--flag=value ...]", "", *lines])
