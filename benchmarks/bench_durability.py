"""Does the store lose anything? Kills, power loss between any two syscalls, damage; each also with its protection off.

Four parts, all seeded: SIGKILL of a recorder while it appends; the syscall log of append, create, replace_file, repair
and the cache's build, cut at every point, with what was not fsynced dropped or torn; damage of every kind in every
file; and controls, where a protection is taken away and the same search must find losses (else it proves nothing).
Zero losses in N trials bound the rate at 3/N (95 %). Exits 1 on any loss, and where a control finds none.

    python benchmarks/bench_durability.py --kills=1000 --mutations=10000 --cuts=all
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))

import cuts
from cuts import OPERATIONS, cut
from kills import kill
from mutations import mutate

from robot_value.episodes import durable, manifest, store


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=1000, help="SIGKILLs of a recorder, half of them per way to commit"
    )
    parser.add_argument("--mutations", type=int, default=10_000, help="damaged files")
    parser.add_argument("--cuts", default="all", help="points of each operation's log that are cut: all, or how many")
    parser.add_argument(
        "--variants", type=int, default=8, help="torn disks per cut, besides the one with synced data only"
    )
    parser.add_argument("--controls", type=int, default=40, help="trials of each search with its protection off")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where the stores lie, e.g. on the disk to be tried")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/durability.json"), help="result file")
    options = parser.parse_args(arguments)
    points = None if options.cuts == "all" else int(options.cuts)
    began = time.perf_counter()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [*kills(Path(folder), options.kills, options.seed), *all_cuts(options.variants, points, options.seed)]
        rows.append(mutations(Path(folder), options.mutations, options.seed))
        controls = without_protection(Path(folder), options.controls, options.seed)
    lost = sum(row["losses"] for row in rows)
    blind = [row["what"] for row in controls if not row["losses"]]
    passed = not lost and not blind
    result = {"passed": passed, "seconds": time.perf_counter() - began, "rows": rows, "controls": controls}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'PASS' if passed else 'FAIL'}: {lost} losses in {sum(row['trials'] for row in rows):,} trials;", end=" ")
    print(f"controls that found nothing: {', '.join(blind) or 'none'}; written to {options.out}")
    return 0 if passed else 1


def row(what: str, trials: int, losses: Sequence[str], **more) -> dict:
    """`rate_below`: the rule of three, where nothing was lost."""
    bound = 3 / trials if trials and not losses else None
    line = f"{what}: {len(losses)} losses in {trials:,}" + (f" (rate below {bound:.2g}, 95 %)" if bound else "")
    tqdm.write("\n    ".join([line, *losses[:3]]))
    return {
        "what": what,
        "trials": trials,
        "losses": len(losses),
        "rate_below": bound,
        "first": list(losses[:5]),
        **more,
    }


def bar(what: str) -> Callable:
    return partial(tqdm, desc=what, leave=False)


def kills(folder: Path, trials: int, seed: int) -> list[dict]:
    rows = []
    for commit, count in (("rename", trials - trials // 2), ("manifest", trials // 2)):
        if count:
            found = kill(folder / f"kills-{commit}", count, seed, commit, bar=bar(f"kills, {commit}"))
            seen = {"acknowledged": found.acknowledged, "cut_short": found.cut_short}
            rows.append(row(f"kill -9, commit by {commit}", count, found.losses, **seen))
    return rows


def all_cuts(variants: int, points: int | None, seed: int) -> list[dict]:
    rows = []
    for name, operation in OPERATIONS.items():
        found = cut(operation(), variants, points, seed, bar(f"cuts, {name}"))
        rows.append(row(f"power loss in {name}", found.states, found.losses, points=found.points))
    return rows


def mutations(folder: Path, trials: int, seed: int) -> dict:
    found = mutate(folder / "mutations", trials, seed, bar("mutations"))
    return row("mutations", found.trials, found.losses, kinds=found.kinds)


def without_protection(folder: Path, trials: int, seed: int) -> list[dict]:
    """The same searches on a store that skips fsync, copies instead of renaming, or does not look at checksums."""
    record, differs = cuts.record, manifest._differs

    def unsynced(*arguments):
        start, log = record(*arguments)
        return start, [call for call in log if call.kind != "fsync"]

    def copied(staged: Path, target: Path) -> None:
        files = {p.relative_to(staged).as_posix(): p.read_bytes() for p in staged.rglob("*") if p.is_file()}
        durable.write_tree(target, files)

    append = OPERATIONS["append"]()
    points = max(4, trials // 4)
    with patch.object(cuts, "record", unsynced):
        rows = [row("control: append without fsync", *_both(cut(append, 4, points, seed)))]
    with patch.object(store, "publish", copied):
        rows.append(row("control: append without rename, power loss", *_both(cut(append, 4, points, seed))))
    with patch.object(manifest, "_differs", lambda entry, size, content: differs(entry, size, None)):
        found = mutate(folder / "unchecked", trials, seed)
        rows.append(row("control: mutations without checksums", found.trials, found.losses))
    found = kill(folder / "unprotected", max(8, trials // 4), seed, flag="--unprotected")
    return [*rows, row("control: append without rename, kill -9", found.trials, found.losses)]


def _both(found: cuts.Cuts) -> tuple[int, list[str]]:
    return found.states, found.losses


if __name__ == "__main__":
    raise SystemExit(main())
