"""A full /dev/shm, seen before rclpy is loaded."""

import os
from types import SimpleNamespace

import pytest

from robot_value.ros_nodes.shared_memory import check_room

PAGE = os.sysconf("SC_PAGESIZE")


def room(monkeypatch, pages, flag=0):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=pages, f_frsize=PAGE, f_flag=flag))


# mutation: `< 1` page; no look at the flag.
@pytest.mark.parametrize(("pages", "flag"), [(2, 0), (0, os.ST_RDONLY)])
def test_with_room_and_where_nothing_is_made_nodes_start(tmp_path, monkeypatch, pages, flag):
    room(monkeypatch, pages, flag)
    check_room(tmp_path)


# mutation: names of the files only: a file without a page is as bad as none.
def test_a_full_one_is_refused_unless_the_pages_are_there(tmp_path, monkeypatch):
    room(monkeypatch, 1)
    with pytest.raises(ImportError, match=r"is full.*start again"):
        check_room(tmp_path)
    for name in ("lttng-ust-wait-6", "lttng-ust-wait-6-0"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(PAGE)
    with pytest.raises(ImportError, match="room for 2 pages"):
        check_room(tmp_path)
    for name in ("lttng-ust-wait-6", "lttng-ust-wait-6-0"):
        (tmp_path / name).write_bytes(b"x" * PAGE)
    check_room(tmp_path)


def test_without_one_nodes_start(tmp_path):
    # mutation: let the OSError out
    check_room(tmp_path / "nothing")
