"""The steering node with a display: what is shown is what it publishes, and the arm waits for nobody."""

import json

import numpy as np
import pytest
from display_scene import recorded, tensor
from steered import mapping, save_models, topics_file
from test_steering_node import ProbeArm, ros  # noqa: F401 - a fixture

from robot_value import wire

pytest.importorskip("rerun", reason="rerun-sdk is not installed (pip install 'robot_value[view]')")


def test_every_decision_of_the_node_is_in_the_file_when_it_is_cleaned_up(tmp_path, ros):  # noqa: F811
    # mutation: opened and never handed to the loop; never closed
    policy, critic = save_models(tmp_path, mapping().spec)
    parameters = {"topics": str(topics_file(tmp_path)), "policy": str(policy), "critic": str(critic), "n": 8}
    parameters |= {"lockstep": True, "max_steps": 20, "display": "rerun"}
    parameters["display_options"] = json.dumps({"to": str(tmp_path / "look.rrd")})
    with ros.Graph(tmp_path) as graph:
        node = graph.start("steering_node", parameters)
        graph.wait_state(node, timeout=90)
        arm = ProbeArm(graph)
        arm.begin(0, 5)
        arm.ended.wait(lambda message: json.loads(message.data).get("event") == "ended")
        made = [wire.unpack_decision(message.data) for _, message in arm.decisions.messages]
        assert graph.change("steering", "deactivate") and graph.change("steering", "cleanup")
        assert "Traceback" not in node.said
    found = recorded(tmp_path / "look.rrd")
    rows = {at[0]: row for at, row in found["/scores/value"].items()}
    assert len(made) == len(rows) == 5
    for decision in made:
        value = tensor(rows[int(decision.start_step[0])]["values"])
        np.testing.assert_array_equal(value, decision.value[0])
    assert len(found["/actions"]) == 1 + 20 and found["/cameras/front"]
