"""Ten thousand random transitions and service calls on the guard: is it ever in a state it should not be in?

The model is a table of the legal transitions. After each call the node's state must be the model's, services must
answer yes only while active, and no command may be published outside ACTIVE (5 ms after the call that left it).

    python benchmarks/bench_lifecycle.py --steps=10000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from faults_rig import Rig

from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic

LEGAL = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "activate"): "active",
    ("active", "deactivate"): "inactive",
    ("inactive", "cleanup"): "unconfigured",
}
TRANSITIONS = ("configure", "activate", "deactivate", "cleanup")
SERVICES = ("enable", "disable", "estop", "reset")
GRACE = 5_000_000  # ns


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/lifecycle.json"))
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        try:
            found = walk(rig, options.steps, np.random.default_rng(options.seed), tqdm)
        finally:
            rig.close()
    result = {"format_version": 1, **provenance(began), **found}
    write_atomic(options.out, json.dumps(plain(result), indent=2) + "\n")
    passed = not found["illegal"] and not found["outside_active"]
    print(f"{'PASS' if passed else 'FAIL'}: {found['steps']} steps, {len(found['illegal'])} illegal; {options.out}")
    return 0 if passed else 1


def walk(rig: Rig, steps: int, rng: np.random.Generator, bar=iter) -> dict:
    """Random calls; what was illegal, and how many commands came outside ACTIVE."""
    state, illegal, outside, accepted = "active", [], 0, 0
    rig.scripted.start()
    left = 0  # ns, when ACTIVE was left
    for _ in bar(range(steps)):
        asked = str(rng.choice(TRANSITIONS + SERVICES))
        if asked in TRANSITIONS:
            wanted = LEGAL.get((state, asked))
            done = rig.graph.change("guard", asked)
            got = rig.graph.state("guard")
            if done != (wanted is not None) or got != (wanted or state):
                illegal.append(f"{asked} in {state}: {'accepted' if done else 'refused'}, then {got}")
            left = time.monotonic_ns() if state == "active" and got != "active" else left
            state = got
        else:
            answered = ask(rig, asked)
            if answered and state != "active":
                illegal.append(f"{asked} succeeded while {state}")
        accepted += asked in TRANSITIONS and done
        if state != "active":
            outside += sum(command.ns > left + GRACE for command in list(rig.commands[-20:]))
    rig.scripted.stop()
    return {"steps": steps, "accepted": accepted, "illegal": illegal[:20], "outside_active": outside}


def ask(rig: Rig, service: str) -> bool:
    """Whether the guard said yes; a service that is not there says no."""
    from std_srvs.srv import SetBool, Trigger

    if service in ("enable", "disable"):
        request = SetBool.Request(data=service == "enable")
        answer = rig.graph.call(SetBool, "guard/enable", request, timeout=0.2)
    else:
        answer = rig.graph.call(Trigger, f"guard/{service}", timeout=0.2)
    return bool(answer and answer.success)


if __name__ == "__main__":
    raise SystemExit(main())
