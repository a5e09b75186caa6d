"""SIGKILL of actors and learners of `robot-value train online` at random moments, again and again, in tiny runs.

A session is one run from an empty folder to its end. In "actor" and "ray_actor" an actor's process is killed and the
run goes on by itself; in "learner" and "ray_learner" the driver is killed (the learner is the driver: one process), and
the same command continues, in "both_learner" with a policy that learns beside the critic; in "arm_learner" nobody
plays, and it follows a store that is there (--follow.store). After every kill and at the end:

- every episode that was on disk after an earlier kill is still there, byte for byte, and undamaged;
- neither the versions that played or were published, nor the newest checkpoint go backward;
- the whole run equals an undisturbed one (in simulation of a single actor) bit for bit: weights, episodes, progress,
  evaluations.

Each session is written to the result file when it has ended; the same command goes on there. Exits 1 on any failure,
or where the control, a run that records a cut-off wave twice, is not found out.

    python benchmarks/bench_online_kills.py --trials=100
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

CASES = {"actor": ("local", 1), "learner": ("local", 1), "ray_actor": ("ray", 2), "ray_learner": ("ray", 2)}
CASES |= {"both_learner": ("both", 1), "arm_learner": ("follow", 1)}  # "both": local, and a policy learns, too
ROUNDS, PER_ROUND, WAVE = 8, 8, 4
PATIENCE = 600  # s without an end before a session counts as hung


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="kills per case")
    parser.add_argument("--cases", default=",".join(CASES), help="which of them")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--control", type=int, default=30, help="kills of an unprotected run, at most; 0: none")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs lie, e.g. on the disk to be tried")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/online_kills.json"), help="result file")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = json.loads(options.out.read_text()) if options.out.exists() else {"sessions": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        home = Path(folder)
        plans = [(case, options.trials, False) for case in options.cases.split(",")]
        setups = sorted({CASES["learner"], *(CASES[case] for case, *_ in plans)}, reverse=True)  # "follow" is last
        wholes = {setup: reference(home, *setup) for setup in setups}
        expected = wholes[CASES["learner"]].content
        for case, wanted, unprotected in [*plans, ("learner", options.control, True)]:
            whole = wholes[CASES[case]]
            whole = whole if CASES[case][0] in ("both", "follow") else replace(whole, content=expected)
            while left := _left(done := _done(result, case, unprotected), wanted, unprotected):
                found = session(home, case, options.seed + len(done), whole, left, unprotected)
                if not found["kills"]:  # the machine has less to do than it had
                    whole = replace(whole, seconds=min(whole.seconds, found["seconds"]))
                result["sessions"].append(found)
                _write(options.out, result)
    return _verdict(result, options.out)


def _left(done: Sequence[dict], wanted: int, unprotected: bool) -> int:
    """Kills that are still to be made; a control ends with what it finds."""
    found = unprotected and any(each["failures"] for each in done)
    return 0 if found else max(0, wanted - sum(each["kills"] for each in done))


def _done(result: dict, case: str, unprotected: bool) -> list[dict]:
    return [each for each in result["sessions"] if (each["case"], each["unprotected"]) == (case, unprotected)]


def _write(path: Path, result: dict) -> None:
    from robot_value.results import write_atomic

    write_atomic(path, json.dumps(result, indent=1) + "\n")


def _verdict(result: dict, out: Path) -> int:
    failures = [words for each in result["sessions"] if not each["unprotected"] for words in each["failures"]]
    controls = [each for each in result["sessions"] if each["unprotected"]]
    blind = bool(controls) and not any(each["failures"] for each in controls)
    for case in CASES:
        if done := _done(result, case, False):
            hits = {name: sum(each["hit"][name] for each in done) for name in done[0]["hit"]}
            print(f"{case}: {sum(each['kills'] for each in done)} kills in {len(done)} runs, of them {hits}")
    print("\n".join(failures[:10]))
    print(f"{'FAIL' if failures or blind else 'PASS'}: {len(failures)} failures", end="; ")
    print(f"control {'found nothing' if blind else 'found out' if controls else 'not run'}; written to {out}")
    return int(bool(failures) or blind)


# -- the run -----------------------------------------------------------------------------------------------------------


def train(home: Path, folder: Path, backend: str, number: int, actor: Executor | None = None) -> None:
    """What is killed: the same call for every start of a session. `actor` instead of the backend's."""
    from online_fakes import PointConfig

    from robot_value.arms import MAIN
    from robot_value.evaluate import Arm
    from robot_value.online.follow import Follow
    from robot_value.online.learning import OnlineJob, Schedule, train_online

    follow = Follow(str(folder / "episodes"), "recorded", poll=0.05) if backend == "follow" else Follow()
    schedule = Schedule(
        folder=str(folder), episodes=ROUNDS * PER_ROUND, per_round=PER_ROUND, ratio=0.25, batch_size=16,
        evaluate_every=3, evaluate_episodes=WAVE, progress=False, tensorboard=False, device="cpu",
        backend=backend if backend == "ray" else "local", actors=number,
        learn="both" if backend == "both" else "critic",
    )  # fmt: skip
    arm = Arm("online", "argmax", n=3, critic=MAIN)
    models = (str(home / "models" / name) for name in ("policies", "critics"))
    print("begun", flush=True)
    train_online(OnlineJob(PointConfig(), *models, arm=arm, schedule=schedule, batch_size=WAVE, follow=follow), actor)


def unprotect() -> None:
    """The control: of a wave that was cut off, what is there already is recorded again."""
    from robot_value.collect import Missing

    Missing.on_episode = lambda self, episode: self.recorder.on_episode(episode)


def start(home: Path, folder: Path, backend: str, number: int, unprotected: bool = False) -> subprocess.Popen:
    """Returns when the run itself begins: what was imported before that cannot lose anything."""
    if backend == "follow" and not folder.exists():
        shutil.copytree(home / "local" / "episodes", folder / "episodes")
    command = [sys.executable, __file__, "--run", str(home), str(folder), backend, str(number), str(int(unprotected))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(f"{folder}.log", "ab") as log:
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True)
    driver.stdout.readline()
    return driver


@dataclass(frozen=True)
class Whole:
    """A run that was left alone."""

    content: dict
    seconds: float  # from its begin to its end


def reference(home: Path, backend: str, number: int) -> Whole:
    from online_fakes import save_models

    save_models(home / "models")
    folder = home / backend
    driver, began = start(home, folder, backend, number), time.monotonic()
    if driver.wait(PATIENCE):
        raise RuntimeError(Path(f"{folder}.log").read_text()[-2000:])
    return Whole(content(folder), time.monotonic() - began)


# -- a session ---------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What kills have left so far, and what was wrong with it."""

    kills: int = 0
    episodes: set[str] = field(default_factory=set)  # names' hashes
    version: int = 0  # newest that played, as progress.json tells, or that was published for an arm
    step: int = 0  # of the newest checkpoint
    failures: list[str] = field(default_factory=list)
    hit: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("round", "episode", "checkpoint"), 0))  # begun

    def look(self, folder: Path, when: str) -> None:
        """Actors' own stores first: an episode may move to the run's meanwhile, never back."""
        apart = [name for store in sorted(folder.glob("episodes.actors/*/episodes")) for name in _listed(store)]
        there = {name[9:] for name in apart} | {name[9:] for name in _listed(folder / "episodes" / "episodes")}
        told = _progress(folder)["rounds"]
        version = max([_published(folder), *(each["version"] for each in told)])
        step = min(max(_steps(part), default=0) for part in _parts(folder))
        if lost := self.episodes - there:
            self.failures.append(f"{when}: episodes {sorted(lost)} were on disk and are gone")
        if version < self.version or step < self.step:
            self.failures.append(f"{when}: from version {self.version}, step {self.step} to {version}, {step}")
        self.episodes, self.version, self.step = self.episodes | there, version, step
        self.hit["round"] += len(there) > sum(len(each["names"]) for each in told)
        self.hit["episode"] += any(
            any(folder.glob(f"{store}/.staging/*")) for store in ("episodes", "episodes.actors/*")
        )
        self.hit["checkpoint"] += any(any(part.glob("*tmp*")) for part in _parts(folder))


def session(home: Path, case: str, seed: int, whole: Whole, most: int, unprotected: bool = False) -> dict:
    """At most `most` kills, then the run goes on to its end."""
    folder, seen, began = home / f"{case}-{seed}-{int(unprotected)}", Seen(), time.monotonic()
    moments = random.Random(f"{case} {seed}")
    again = partial(start, home, folder, *CASES[case], unprotected)
    driver = again()
    try:
        while not ended(driver, moments.uniform(0, whole.seconds) if seen.kills < most else PATIENCE):
            if seen.kills == most:
                raise RuntimeError(f"{case} {seed}: no end within {PATIENCE} s")
            if kill(driver, case):  # else: nobody is there, an actor is just being replaced
                seen.look(folder, f"{case} {seed}, kill {seen.kills + 1}")
                seen.kills += 1
                driver = again() if case.endswith("learner") else driver
    finally:
        end(driver)
    if driver.returncode:
        seen.failures.append(f"{case} {seed}: exit code {driver.returncode}: {_last_words(folder)}")
    else:
        seen.look(folder, f"{case} {seed}, end")
        seen.failures += [f"{case} {seed}: {words}" for words in differences(folder, whole)]
    words = {"case": case, "seed": seed, "unprotected": unprotected, "kills": seen.kills, "hit": seen.hit}
    return words | {"seconds": round(time.monotonic() - began, 1), "failures": seen.failures}


def ended(driver: subprocess.Popen, patience: float) -> bool:
    try:
        driver.wait(patience)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill(driver: subprocess.Popen, case: str) -> bool:
    """False where there was nobody."""
    if case.endswith("learner"):
        end(driver)
        return True
    mark = b"ray::_Process" if case.startswith("ray") else b"spawn_main"
    actors = [pid for pid in descendants(driver.pid) if mark in _command(pid)]
    with suppress(ProcessLookupError):
        for pid in actors[-1:]:
            os.kill(pid, signal.SIGKILL)
    return bool(actors)


def end(driver: subprocess.Popen) -> None:
    """Kill it. Its actors end by themselves: returns when they have."""
    orphans = descendants(driver.pid)
    driver.kill()
    driver.wait()
    limit = time.monotonic() + PATIENCE
    while alive := [pid for pid in orphans if _command(pid)]:
        if time.monotonic() > limit:
            raise RuntimeError(f"processes {alive} have outlived the learner by {PATIENCE} s")
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [each for child in children for each in descendants(child)]


def _command(pid: int) -> bytes:
    """Empty of a process that is gone, or dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# -- what a run has left -----------------------------------------------------------------------------------------------


def content(folder: Path) -> dict:
    """All that does not depend on the clock or on who recorded an episode first."""
    from robot_value import checkpoint

    saved = [checkpoint.newest(part) for part in _parts(folder)]
    files = [each for newest in saved for each in sorted(newest.glob("model*"))]
    return {
        "weights": {str(each.relative_to(folder)): _sha(each.read_bytes()) for each in files},
        "progress": _timeless(_progress(folder)),
        "episodes": dict(_episodes(folder / "episodes")),
    }


def differences(folder: Path, whole: Whole) -> list[str]:
    from robot_value.episodes.store import EpisodeStore

    store = EpisodeStore.open(folder / "episodes")
    found = [f"damage: {problem}" for problem in store.verify()]
    versions = [store.about(name)["provenance"]["version"] for name in store.names()]
    if versions != sorted(versions):
        found.append(f"versions went backward: {versions}")
    if len(versions) != ROUNDS * PER_ROUND:
        found.append(f"expected {ROUNDS * PER_ROUND} episodes, each once, got {len(versions)}")
    mine = content(folder)
    return found + [f"{name} differ from the undisturbed run's" for name in mine if mine[name] != whole.content[name]]


def _episodes(path: Path) -> Iterator[tuple[str, str]]:
    from robot_value.episodes.store import EpisodeStore

    for episode in EpisodeStore.open(path):
        made = episode.provenance
        values = [each.value for each in episode.decisions] + [each.chunk for each in episode.decisions]
        arrays = [episode.states, episode.actions, episode.rewards, *values]
        yield f"{made['round']} {made['seed']} v{made['version']}", _sha(b"".join(each.tobytes() for each in arrays))


def _timeless(told: object) -> object:
    if isinstance(told, dict):
        return {key: _timeless(value) for key, value in told.items() if key not in ("names", "seconds")}
    return [_timeless(each) for each in told] if isinstance(told, list) else told


def _progress(folder: Path) -> dict:
    path = folder / "progress.json"
    return json.loads(path.read_text()) if path.exists() else {"rounds": []}


def _published(folder: Path) -> int:
    from robot_value.online.publication import newest

    found = newest(folder)
    return 0 if found is None else found.number


def _parts(folder: Path) -> list[Path]:
    """Where checkpoints are: of a critic that learns alone, or of a policy and a critic."""
    return [folder / name for name in ("policy", "critic")] if (folder / "policy").exists() else [folder]


def _steps(part: Path) -> list[int]:
    return [int(each.name[5:]) for each in part.glob("step_*") if each.name[5:].isdigit()]


def _listed(episodes: Path) -> list[str]:
    return [each.name for each in episodes.glob("[0-9]*-*")] if episodes.is_dir() else []


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _last_words(folder: Path) -> str:
    return Path(f"{folder}.log").read_text()[-400:].replace("\n", " | ")


if sys.argv[1:2] == ["--run"] and sys.argv[-1] == "1":
    unprotect()  # here, for an actor's process too: it imports this file with the same arguments

if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        train(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        raise SystemExit(main())
