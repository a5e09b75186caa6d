"""Every loader against mutated files: it loads them or says what is wrong, within 5 s and 512 MB, and runs nothing.

Small sound files of every kind (fuzz_seeds.py) are changed by seeded mutations, some with their checksums made right
again, and read in worker processes. A crash, a hang, too much memory, an exception that is not ours, or a pickle that
ran is a failure; its case is kept.

    python benchmarks/bench_fuzz.py                # 10,000 cases, about 10 minutes on 2 cores
    python benchmarks/bench_fuzz.py --cases 300
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_mutations import mutate
from fuzz_seeds import seeds

MEMORY = 512  # MB above what the worker had when it started
START = 120  # s until a worker has imported everything
GOOD = ("loaded", "refused")


@dataclass(frozen=True)
class Case:
    number: int
    seed: int
    kind: str  # name in fuzz_seeds
    loader: str
    mutation: str
    end: str  # loaded, refused; or crash, hang, memory, foreign, canary
    said: str  # the exception


class Worker:
    """A process that loads; started again after it died."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("fuzz_worker.py"))]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.baseline = json.loads(self._line(START) or "{}").get("peak", 0)

    def ask(self, loader: str, path: Path, seconds: float, patience: float = 1) -> tuple[str, str]:
        """(end, what was said). Hanging: more CPU time than `seconds`, or `patience` times as long on the clock."""
        try:
            self.process.stdin.write(json.dumps([loader, str(path)]) + "\n")
            self.process.stdin.flush()
            line = self._line(patience * seconds)
        except BrokenPipeError:
            line = ""
        if line is None:
            return "hang", f"no answer after {patience * seconds:g} s"
        if not line:
            return "crash", f"exit code {self.process.wait()}"
        answer = json.loads(line)
        if answer["peak"] - self.baseline > MEMORY:
            return "memory", f"{answer['peak'] - self.baseline} MB; {answer['said']}"
        if answer["seconds"] > seconds:
            return "hang", f"{answer['seconds']:.1f} s; {answer['said']}"
        return answer["end"], answer["said"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self, seconds: float) -> str | None:
        """None after so many seconds, "" where the process is dead."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="how many mutated files")
    parser.add_argument("--seconds", type=float, default=5.0, help="until a load counts as hanging")
    parser.add_argument("--patience", type=float, default=1.0, help="clock time per CPU time, on a busy machine")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--workers", type=int, default=2, help="processes that load")
    parser.add_argument("--only", default="", help="only loaders whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/fuzz.json"), help="result file")
    options = parser.parse_args()
    cases = run(options.cases, (options.seconds, options.patience), options.seed, options.workers, options.only, True)
    failures = [asdict(case) for case in cases if case.end not in GOOD]
    table = count(cases)
    result = {"passed": not failures, "cases": len(cases), "by_loader": table, "failures": failures}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for loader, ends in table.items():
        print(f"{loader:<26} " + ", ".join(f"{end} {n}" for end, n in ends.items()))
    for case in failures[:20]:
        print(f"FAILED {case['end']}: {case['loader']}, {case['mutation']}, case {case['number']}: {case['said']}")
    return int(bool(failures))


def run(
    cases: int, limits: tuple[float, float], seed: int, workers: int, only: str = "", progress: bool = False
) -> list[Case]:
    """`limits`: seconds and patience of Worker.ask."""
    from tqdm import tqdm

    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, ThreadPoolExecutor(workers) as threads:
        root = Path(scratch)
        plan = [(kind, loader) for kind, (_, names) in seeds().items() for loader in names if only in loader]
        for kind in {kind for kind, _ in plan}:
            (root / "sound" / kind).mkdir(parents=True)
            seeds()[kind][0](root / "sound" / kind / kind)
        with tqdm(total=cases, desc="fuzzing", unit="case", disable=not progress) as bar:
            parts = [
                threads.submit(lambda i: list(_part(root, plan, range(i, cases, workers), limits, seed, bar)), i)
                for i in range(workers)
            ]
            return sorted((case for part in parts for case in part.result()), key=lambda case: case.number)


def count(cases: list[Case]) -> dict[str, dict[str, int]]:
    """Loader -> end -> cases."""
    names = sorted({case.loader for case in cases})
    return {name: dict(Counter(case.end for case in cases if case.loader == name)) for name in names}


def _part(root: Path, plan: list, numbers: range, limits: tuple[float, float], seed: int, bar) -> Iterator[Case]:
    """Every case from its number alone, so that one of them can be repeated."""
    worker, scratch = Worker(), Path(tempfile.mkdtemp(dir=root))
    try:
        for number in numbers:
            rng = random.Random(f"{seed} {number}")
            kind, loader = plan[number % len(plan)]
            folder, canary = scratch / str(number), scratch / "canary"
            shutil.copytree(root / "sound" / kind, folder)
            mutation = mutate(folder / kind, rng, canary)
            end, said = worker.ask(loader, folder / kind, *limits)
            if canary.exists():
                canary.unlink()
                end = "canary"
            if end in ("crash", "hang", "memory"):
                worker.close()
                worker = Worker()
            shutil.rmtree(folder)
            bar.update()
            yield Case(number, seed, kind, loader, mutation, end, said)
    finally:
        worker.close()


if __name__ == "__main__":
    raise SystemExit(main())
