"""Power loss between two syscalls leaves the old state or the new one. All points: benchmarks/bench_durability.py."""

import os

import cuts
import pytest
from cuts import OPERATIONS, cut
from filesystem import Call, Disk

from robot_value.episodes import durable, store
from robot_value.episodes.durable import replace_file


# mutation: no `sync_folder(folder.parent)` in make_folder (create), or the mark unlinked before the manifest (in place)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_cut_leaves_the_old_state_or_the_new_one(name):
    found = cut(OPERATIONS[name](), variants=2, points=None if name == "replace_file" else 8)
    assert found.losses == []
    assert found.states > 4, "the cuts must show different disks"


@pytest.mark.parametrize("name", ["append", "append in place", "replace_file"])
def test_without_fsync_the_same_cuts_find_losses(name, monkeypatch):
    monkeypatch.setattr(cuts, "record", _without_fsync(cuts.record))
    assert cut(OPERATIONS[name](), variants=12, points=4).losses


def _without_fsync(record):
    def recorded(*arguments):
        start, log = record(*arguments)
        return start, [call for call in log if call.kind != "fsync"]

    return recorded


def test_without_the_rename_the_same_cuts_find_losses(monkeypatch):
    monkeypatch.setattr(store, "publish", _copy)
    assert cut(OPERATIONS["append"](), variants=2, points=12).losses


def _copy(folder, target):
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    durable.write_tree(target, files)


def test_the_disk_model_keeps_only_what_was_synced():
    """Unsynced bytes are lost; a file's fsync leaves no name without its folder's; a rename is one step."""
    disk = Disk({"a": None, "b": None, "a/old": b"1"})
    for call in [Call("create", "a/new"), Call("write", "a/new", data=b"2"), Call("fsync", "a/new")]:
        disk.do(call)
    assert disk.after_power_loss(None) == {"a": None, "b": None, "a/old": b"1"}
    disk.do(Call("fsync", "a"))
    disk.do(Call("rename", "a/new", "b/new"))
    assert disk.after_power_loss(None) == {"a": None, "b": None, "a/old": b"1", "a/new": b"2"}
    disk.do(Call("fsync", "b"))
    assert disk.after_power_loss(None) == {"a": None, "b": None, "a/old": b"1", "b/new": b"2"}


def test_the_log_sees_every_call_of_a_replaced_file(tmp_path):
    from filesystem import Syscalls

    replace_file(tmp_path / "file", b"old")
    with Syscalls(tmp_path) as calls:
        replace_file(tmp_path / "file", b"new")
    assert [call.kind for call in calls.log if call.kind != "write"] == ["create", "fsync", "rename", "fsync"]
    assert os.listdir(tmp_path) == ["file"]
