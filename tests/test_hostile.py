"""A corpus of traps over every loader: refused within seconds and 512 MB, in one line, and never executed."""

import shutil
import sys
from pathlib import Path

import pytest
from hostile_files import corpus

from robot_value import components

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_fuzz
from fuzz_loaders import loaders
from fuzz_seeds import seeds

CASES = list(corpus())
SECONDS, PATIENCE = 8.0, 8.0  # CPU, twice what the slowest takes; and how busy the machine may be


@pytest.fixture(scope="module")
def worker():
    running = bench_fuzz.Worker()
    yield running
    running.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Kind -> a folder that holds the sound file; made once."""
    root, made = tmp_path_factory.mktemp("sound"), {}
    for kind in {case.kind for case in CASES}:
        made[kind] = root / kind
        made[kind].mkdir()
        seeds()[kind][0](made[kind] / kind)
    return made


# mutation: SAME_SIZE | {"pickle"}; at_once without its raise; check_chunk returns at once; `inside` without realpath
@pytest.mark.parametrize("kind", sorted({case.kind for case in CASES}))
def test_every_trap_is_refused_in_time_without_much_memory_and_without_running(kind, worker, sound, tmp_path):
    wrong = []
    for i, case in enumerate(each for each in CASES if each.kind == kind):
        folder, canary = tmp_path / str(i), tmp_path / "canary"
        shutil.copytree(sound[kind], folder)
        case.spoil(folder / kind, canary)
        end, said = worker.ask(case.loader, folder / kind, SECONDS, 2.0 if "pipe" in case.name else PATIENCE)
        if end != "refused" or canary.exists():
            wrong.append(f"{case.name}: {end} {said} {'EXECUTED' if canary.exists() else ''}")
        if end in ("crash", "hang", "memory"):
            worker.close()
            worker.__init__()
    assert not wrong, "\n".join(wrong)


def test_what_is_sound_is_read_by_the_same_loaders(worker, sound):
    # mutation: any refusal of everything, FREE = 0
    for kind, folder in sound.items():
        for loader in seeds()[kind][1]:
            assert worker.ask(loader, folder / kind, SECONDS, PATIENCE) == ("loaded", ""), (kind, loader)


def test_the_corpus_is_large_and_every_converter_has_files_to_be_fuzzed_with():
    used = {name for _, names in seeds().values() for name in names}
    assert len(CASES) >= 100
    assert used == loaders().keys()
    assert {f"convert {name}" for name in components.names("converters")} <= used
