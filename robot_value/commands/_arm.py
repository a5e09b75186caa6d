"""An arm from the command line: `--selector.type=... --proposer.type=... --guide.type=... --gate.type=... --n=...`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .. import flags
from ..arms import MAIN
from ..evaluate import Arm

PARTS = {
    "selector": flags.Choice("selectors", None),
    "proposer": flags.Choice("proposers", None),
    "guide": flags.Choice("guides", None),
    "gate": flags.Choice("gates", None),
}
DISPLAY = {"display": flags.Choice("displays", None)}


def asked_arm(parsed: flags.Parsed, name: str) -> Arm:
    """Parts that were not chosen are the Steerer's own, the selector softmax_average as in the recommended recipe."""
    chosen = {kind: parsed.names.get(kind) for kind in PARTS}
    options = {kind: _options(getattr(parsed.values, kind, None)) for kind in PARTS}
    return Arm(
        name,
        chosen["selector"] or "softmax_average",
        options["selector"],
        parsed.values.n,
        chosen["gate"] or "always",
        MAIN,
        gate_options=options["gate"],
        proposer=chosen["proposer"] or "samples",
        proposer_options=options["proposer"],
        guide=chosen["guide"],
        guide_options=options["guide"],
        also={name: name for name in getattr(parsed.values, "also", {})},
    )


def _options(config: Any) -> dict[str, Any]:
    return {} if config is None else {item.name: getattr(config, item.name) for item in fields(config)}
