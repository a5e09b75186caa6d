"""Every syscall of an append fails once, with a full disk and with a dying one: an error, the store is as before."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuts import episode, make_spec
from filesystem import Syscalls

from robot_value.episodes import EpisodeStore, StoreError
from robot_value.episodes import cache as cache_module
from robot_value.episodes import lock as lock_module
from robot_value.episodes.cache import open_cache

ROOT = Path(__file__).resolve().parents[2]


def failing(nth: int, code: int, forever: bool = False):
    def before(count, call):
        if count == nth or (forever and count > nth and call.kind not in ("unlink", "rmdir")):
            raise OSError(code, os.strerror(code), call.path)

    return before


# mutation: no rename back in publish: the fsync of episodes/ fails, and what was refused is there
@pytest.mark.parametrize("commit", ["rename", "manifest"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_append_that_fails_at_any_call_changes_nothing_and_the_next_one_works(memory, commit, code):
    with EpisodeStore.create(memory / "s", make_spec(), commit) as store:
        known = [store.append(episode(0))]
        with Syscalls(memory) as calls:
            known.append(store.append(episode(1)))
        total = calls.count
        assert total > 40
        refused = 0
        for nth in range(1, total + 1):
            with Syscalls(memory, failing(nth, code, forever=nth % 2 == 0)) as calls:
                try:
                    known.append(store.append(episode(2)))  # a mkdir of what is there, or what follows the commit
                except OSError as error:
                    refused += 1
                    assert error.errno == code and "not committed" in error.__notes__[0]
            assert store.names() == known, f"call {nth} of {total}: {calls.log[-1]}"
        assert store.verify() == [] and refused > 0.8 * total
        known.append(store.append(episode(2)))
    with EpisodeStore.open(memory / "s", "a") as store:
        assert store.names() == known and store.verify() == []


def test_a_cache_that_fails_at_any_call_is_an_error_gives_its_space_back_and_is_built_later(memory):
    with EpisodeStore.create(memory / "s", make_spec()) as store:
        store.append(episode(0))
    with Syscalls(memory) as calls:
        open_cache(store, memory / "c0", progress=False)
    refused = 0
    for nth in range(1, calls.count + 1, 2):
        (root := memory / f"c{nth}").mkdir()
        try:
            with Syscalls(memory, failing(nth, errno.ENOSPC)):
                open_cache(store, root, progress=False)
        except OSError as error:
            assert error.errno == errno.ENOSPC and not list(root.glob("*/")), nth
            refused += 1
        assert len(open_cache(store, root, progress=False)) == 1
    assert refused > 10


QUOTA = """
import resource, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests", sys.argv[2]]
from cuts import make_spec, episode
from robot_value.episodes import EpisodeStore
store = EpisodeStore.open(sys.argv[3], "a")
resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
try:
    store.append(episode(1))
except OSError as error:
    print(error.strerror, "|", error.__notes__[0])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(store.append(episode(1)))
"""


def test_a_quota_is_an_error_and_the_store_resumes_when_there_is_room(memory):
    with EpisodeStore.create(memory / "s", make_spec()) as store:
        store.append(episode(0))
    command = [sys.executable, "-c", QUOTA, str(ROOT), str(Path(__file__).parent), str(memory / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("File too large | the episode was not committed")
    store = EpisodeStore.open(memory / "s")
    assert len(store) == 2 and store.verify() == []


@pytest.mark.parametrize(("code", "message"), [(errno.EROFS, "cannot be written"), (errno.ENOLCK, "cannot be locked")])
def test_a_store_that_cannot_be_written_or_locked_says_so_and_can_be_read(memory, monkeypatch, code, message):
    with EpisodeStore.create(memory / "s", make_spec()) as store:
        name = store.append(episode(0))

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    target = (lock_module.os, "open") if code == errno.EROFS else (lock_module.fcntl, "flock")
    with monkeypatch.context() as patched:
        patched.setattr(*target, refuse)
        with pytest.raises(StoreError, match=message):
            EpisodeStore.open(memory / "s", "a")
    monkeypatch.setattr(cache_module.fcntl, "flock", refuse)
    assert len(EpisodeStore.open(memory / "s").read(name)) > 0


def test_the_lock_of_a_dead_process_is_no_lock(memory):
    EpisodeStore.create(memory / "s", make_spec()).close()
    (memory / "s" / ".lock").write_text("4194304\n")
    with EpisodeStore.open(memory / "s", "a") as store:
        assert store.append(episode(0)) and (memory / "s" / ".lock").read_text() == f"{os.getpid()}\n"
