"""Foxglove: what an MCAP reader finds in a file is the decision, number by number; a server on loopback."""

import io
import json
import socket
import sys
from collections import defaultdict

import display_scene as scene
import numpy as np
import pytest
from display_scene import SPEC, A, H, N

from robot_value.display import foxglove as component
from robot_value.display.drawing import paths, strokes
from robot_value.display.foxglove import key, numbers, told
from robot_value.display.shown import action_names

NAMES = ["arm_0", "arm_1", "arm_2", "arm_3", "arm_4", "arm_5", "gripper_0"]


def test_names_are_such_that_a_message_path_can_spell_them():
    # mutation: brackets and dots as they are
    assert [key(name) for name in action_names(SPEC)] == NAMES
    assert [key(name) for name in SPEC.state_names] == ["eef_x", "eef_y"]


def test_a_decision_is_json_with_every_number_and_null_where_there_is_none():
    # mutation: NaN, which is no JSON; rounded numbers
    for shown in scene.expected():
        same(json.loads(json.dumps(told(shown, NAMES), allow_nan=False)), shown)
    assert numbers(np.array([[0.1, np.inf]], np.float32)) == [[float(np.float32(0.1)), None]]


def same(message, shown):
    for name in ("episode", "step", "start_step", "execute", "reason", "index"):
        assert message[name] == getattr(shown, name)
    opinion = [message[name] for name in ("plain", "chosen", "best", "headroom")]
    np.testing.assert_array_equal(floats(opinion), [shown.plain, shown.chosen, shown.best, shown.headroom])
    assert len(message["candidates"]) == N
    for n, candidate in enumerate(message["candidates"]):
        np.testing.assert_array_equal(floats([candidate["value"]]), shown.value[n : n + 1])
        np.testing.assert_array_equal(floats([candidate["spread"]]), shown.spread[n : n + 1])
        np.testing.assert_array_equal(curves(candidate), shown.candidates[n])
    np.testing.assert_array_equal(curves(message["chunk"]), shown.chunk)


def curves(message):
    """float32[H, A]."""
    return np.array([floats(message[name]) for name in NAMES], np.float32).T.reshape(H, A)


def floats(values):
    return [np.nan if value is None else value for value in values]


# -- with the SDK ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Topic -> messages (ns, content) of a file, read by the mcap package; JSON parsed, protobuf by its own schema."""
    pytest.importorskip("foxglove", reason="foxglove-sdk is not installed (pip install 'robot_value[view]')")
    pytest.importorskip("mcap", reason="mcap is not installed (pip install 'robot_value[dev]')")
    from mcap.reader import make_reader

    path = tmp_path_factory.mktemp("mcap") / "look.mcap"
    with component.Config(to=str(path)).build(SPEC, "look") as display:
        scene.show(display)
    assert display.drawn == len(scene.moments()) and not display.dropped
    found = defaultdict(list)
    with open(path, "rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            found[channel.topic].append((message.log_time, parsed(schema, channel, message.data)))
    return found


def parsed(schema, channel, data):
    if channel.message_encoding == "json":
        return json.loads(data)
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for each in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
        pool.Add(each)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name)).FromString(data)


def due(shown, i=0):
    return round((shown.time + i * SPEC.dt) * 1e9)


def test_decisions_states_and_actions_come_back_at_their_times(file):
    # mutation: the wall clock in a file; one action per decision
    expected = scene.expected()
    assert [time for time, _ in file["/decision"]] == [due(shown) for shown in expected]
    for shown, (_, message), (_, state) in zip(expected, file["/decision"], file["/states"], strict=True):
        same(message, shown)
        np.testing.assert_array_equal([state["eef_x"], state["eef_y"]], shown.state)
    executed = [(due(shown, i), action) for shown in expected for i, action in enumerate(shown.executed)]
    for (time, action), (at, message) in zip(executed, file["/actions"], strict=True):
        assert time == at
        np.testing.assert_array_equal([message[name] for name in NAMES], action)


def test_pictures_and_paths_are_foxgloves_own_messages(file):
    # mutation: BGR; colours from 0 to 255
    from PIL import Image

    for shown, (_, image), (_, update) in zip(
        scene.expected(), file["/cameras/front"], file["/paths/arm"], strict=True
    ):
        picture = np.asarray(Image.open(io.BytesIO(image.data)))
        assert image.format == "jpeg" and np.abs(picture.astype(int) - shown.images["front"]).max() <= 4
        chunks, colors = strokes(shown)
        (entity,) = update.entities
        found = [[(point.x, point.y, point.z) for point in line.points] for line in entity.lines]
        np.testing.assert_array_equal(np.array(found, np.float32), paths(SPEC, chunks)["arm"])
        painted = [(line.color.r, line.color.g, line.color.b) for line in entity.lines]
        np.testing.assert_allclose(painted, colors / 255, atol=1e-6)


def test_it_serves_on_loopback_and_an_address_in_use_is_said_before_anything_moves(capsys):
    # mutation: 0.0.0.0; open the server in the thread; the SDK's RuntimeError, which no command expects
    pytest.importorskip("foxglove", reason="foxglove-sdk is not installed (pip install 'robot_value[view]')")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"expected to serve at 127\.0\.0\.1:{port}, got .* in use"):
            component.Config(address=f"127.0.0.1:{port}").build(SPEC)
    with component.Config(address=f"127.0.0.1:{port}").build(SPEC) as display:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        scene.show(display)
    assert display.drawn == len(scene.moments()) and f"ws://127.0.0.1:{port}" in capsys.readouterr().err


def test_without_foxglove_it_says_what_to_install(monkeypatch):
    # mutation: the bare ModuleNotFoundError
    monkeypatch.setitem(sys.modules, "foxglove", None)
    with pytest.raises(ValueError, match=r"pip install 'robot_value\[view\]'"):
        component.Config(to="look.mcap").check()
