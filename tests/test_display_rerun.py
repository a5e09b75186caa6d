"""Rerun: what its own reader finds in a file is the decision, number by number; viewers that die and never were."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import display_scene as scene
import numpy as np
import pytest
from display_scene import SPEC, recorded, tensor

from robot_value.display import rerun as component
from robot_value.display import rerun_viewer as viewers
from robot_value.display.drawing import Fans, paths, strokes
from robot_value.display.shown import action_names

pytest.importorskip("rerun", reason="rerun-sdk is not installed (pip install 'robot_value[view]')")


def key(shown, i=0):
    return shown.step + i, shown.episode, round((shown.time + i * SPEC.dt) * 1e9)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rrd") / "look.rrd"
    with component.Config(to=str(path)).build(SPEC, "look") as display:
        scene.show(display)
    assert display.drawn == len(scene.moments()) and not display.dropped
    return recorded(path)


def test_candidates_scores_spreads_and_the_chosen_chunk_come_back_bit_for_bit(file):
    # mutation: float16; the candidates of the robot beside it; scores sorted
    for shown in scene.expected():
        at = key(shown)
        np.testing.assert_array_equal(tensor(file["/candidates"][at]["data"]), shown.candidates)
        np.testing.assert_array_equal(tensor(file["/chunk"][at]["data"]), shown.chunk)
        np.testing.assert_array_equal(tensor(file["/scores/value"][at]["values"]), shown.value)
        np.testing.assert_array_equal(tensor(file["/scores/spread"][at]["values"]), shown.spread)


def test_states_executed_actions_headroom_and_reason_come_back_at_their_times(file):
    # mutation: actions at the decision's step only; headroom = chosen - plain; time in ms
    for shown in scene.expected():
        at = key(shown)
        np.testing.assert_array_equal(file["/states"][at]["scalars"], shown.state)
        expected = [shown.plain, shown.chosen, shown.best]
        np.testing.assert_array_equal(file["/values/decision"][at]["scalars"], expected)
        np.testing.assert_array_equal(file["/headroom"][at]["scalars"], [shown.headroom])
        assert file["/decisions"][at]["text"] == [shown.text] and shown.reason in shown.text
        for i, action in enumerate(shown.executed):
            np.testing.assert_array_equal(file["/actions"][key(shown, i)]["scalars"], action)
    assert sum(len(rows) for rows in [file["/actions"]]) == 1 + sum(len(each.executed) for each in scene.expected())
    assert file["/actions"][None]["names"] == action_names(SPEC)


def test_the_fan_and_the_paths_are_the_drawings_in_their_colours(file):
    # mutation: colours of other candidates; every decision on a scale of its own
    fans = Fans(SPEC)
    for shown in scene.expected():
        chunks, colors = strokes(shown)
        for name, strips in zip(action_names(SPEC), fans(chunks), strict=True):
            row = file["/fan/" + name.replace("[", r"\[").replace("]", r"\]")][key(shown)]
            np.testing.assert_array_equal(row["strips"], strips)
            assert [colour >> 8 for colour in row["colors"]] == [int.from_bytes(bytes(each)) for each in colors]
        row = file["/paths/arm"][key(shown)]
        np.testing.assert_array_equal(row["strips"], paths(SPEC, chunks)["arm"])


def test_cameras_show_what_the_robot_saw_but_for_jpeg(file):
    # mutation: the oldest frame of the history; BGR
    from PIL import Image

    for shown in scene.expected():
        (blob,) = file["/cameras/front"][key(shown)]["blob"]
        picture = np.asarray(Image.open(io.BytesIO(bytes(blob))))
        assert np.abs(picture.astype(int) - shown.images["front"]).max() <= 4


def test_of_several_robots_each_has_a_branch(tmp_path):
    # mutation: the second robot overwrites the first
    path = tmp_path / "look.rrd"
    with component.Config(to=str(path), robots=2).build(SPEC) as display:
        scene.show(display)
    found = recorded(path)
    for shown in scene.expected(robots=2):
        value = tensor(found[f"/robot_{shown.robot}/scores/value"][key(shown)]["values"])
        np.testing.assert_array_equal(value, shown.value)


# -- viewers -----------------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port):
    """Addresses, as Linux writes them, of those who listen at a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if int(local.split(":")[1], 16) == port and state == "0A":
                found.add(local.split(":")[0])
    return found


def test_at_an_address_of_this_machine_it_serves_on_loopback_until_it_is_closed(capsys):
    # mutation: the SDK's own server, which listens on every interface; a server that stays
    port = free_port()
    with component.Config(address=f"127.0.0.1:{port}").build(SPEC) as display:
        assert listening(port) == {"0100007F"}
        scene.show(display)
    assert display.drawn == len(scene.moments()) and listening(port) == set()
    assert f"rerun+http://127.0.0.1:{port}/proxy" in capsys.readouterr().err


@pytest.fixture
def viewer():
    """(process, port) of a Rerun server."""
    port = free_port()
    command = [viewers.program(), "--serve-grpc", "--bind", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        patience = time.monotonic() + 20
        while not listening(port) and time.monotonic() < patience:
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait(10)


def test_a_viewer_that_is_killed_ends_the_display_and_not_the_loop(viewer):
    # mutation: errors of the viewer escape
    process, port = viewer
    display = component.Config(address=f"127.0.0.1:{port}").build(SPEC)
    scene.show(display)
    process.kill()
    process.wait(10)
    scene.show(display)
    display.close()
    assert display.drawn + display.dropped == 2 * len(scene.moments())
    assert display.dropped and display.failed, "somebody who is dead has seen nothing"


HUNG = """
import sys, display_scene as scene
from robot_value.display.rerun import Config
display = Config(address="127.0.0.1:" + sys.argv[1]).build(scene.SPEC)
input()
scene.show(display)
display.close()
print("closed", display.drawn + display.dropped == len(scene.moments()), "timed out" in display.failed)
"""


def test_a_viewer_that_hangs_keeps_neither_the_loop_nor_the_process_from_ending(viewer):
    # mutation: flush without a limit; do not hang up, for which the SDK waits when Python ends
    process, port = viewer
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", HUNG, str(port)]
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        process.send_signal(signal.SIGSTOP)
        try:
            said, _ = run.communicate("go\n", timeout=60)
        finally:
            run.kill()
            process.send_signal(signal.SIGCONT)
    assert said.split() == ["closed", "True", "True"] and run.returncode == 0


def test_without_a_screen_it_says_what_else_can_be_done(monkeypatch):
    # mutation: start a viewer anyhow
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    for module in (component, viewers):
        monkeypatch.setattr(module, "PORT", port)
    for act in (component.Config().check, lambda: component.Config().build(SPEC)):
        with pytest.raises(ValueError, match=r"expected a screen .* --display.to=FILE.rrd"):
            act()


def test_on_another_machine_a_viewer_must_listen(monkeypatch):
    # mutation: serve on a foreign address
    monkeypatch.setattr(viewers, "listens", lambda host, port: False)
    with pytest.raises(ValueError, match=r"expected a viewer that listens at 192\.0\.2\.1:9876, got nobody"):
        component.Config(address="192.0.2.1:9876").build(SPEC)


def test_without_rerun_it_says_what_to_install(monkeypatch):
    # mutation: the bare ModuleNotFoundError
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match=r"pip install 'robot_value\[view\]'"):
        component.Config(to="look.rrd").check()


def test_a_file_has_its_name_only_when_it_is_closed(tmp_path):
    # mutation: stream into the file itself
    display = component.Config(to=str(tmp_path / "look.rrd")).build(SPEC)
    scene.show(display)
    assert [path.name for path in tmp_path.iterdir()] == [".look.partial.rrd"]
    display.close()
    assert [path.name for path in tmp_path.iterdir()] == ["look.rrd"]
