"""Where the tool is: a planar arm computed by hand, URDF against MuJoCo on the same file, and the box around it."""

import numpy as np
import pytest

from robot_value.deploy.forward_kinematics import KinematicsError, Workspace, load, urdf

PLANAR = """
<robot name="planar">
  <link name="base"/><link name="upper"/><link name="lower"/><link name="tip"/><link name="slide"/>
  <joint name="j1" type="revolute"><parent link="base"/><child link="upper"/><origin xyz="0 0 0.1"/>
    <axis xyz="0 0 1"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
  <joint name="j2" type="continuous"><parent link="upper"/><child link="lower"/><origin xyz="0.5 0 0"/>
    <axis xyz="0 0 2"/></joint>
  <joint name="s" type="prismatic"><parent link="lower"/><child link="slide"/><origin xyz="0.3 0 0"/>
    <axis xyz="1 0 0"/><limit lower="0" upper="1" effort="1" velocity="1"/></joint>
  <joint name="f" type="fixed"><parent link="slide"/><child link="tip"/>
    <origin xyz="0.1 0 0" rpy="0.3 0.2 0.1"/></joint>
</robot>
"""


# mutation: in forward_kinematics.urdf leave out `joint.rotation`, or zip forwards.
def test_a_planar_arm_is_where_trigonometry_puts_it():
    tool = urdf(PLANAR, "tip", ["s", "j2", "other", "j1"])
    q = np.random.default_rng(0).uniform(-2, 2, (50, 4))
    reach, first, both = 0.4 + q[:, 0], q[:, 3], q[:, 3] + q[:, 1]
    x, y = 0.5 * np.cos(first) + reach * np.cos(both), 0.5 * np.sin(first) + reach * np.sin(both)
    np.testing.assert_allclose(tool(q), np.stack([x, y, np.full(50, 0.1)], 1), atol=1e-12)


BODY = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
TILTED = """
<robot name="tilted">
  <link name="base"/>
  <link name="one">BODY</link>
  <link name="two">BODY</link>
  <link name="tip">BODY</link>
  <joint name="a" type="revolute"><parent link="base"/><child link="one"/><origin xyz="0.1 0.2 0.3" rpy="0.4 -0.7 1.1"/>
    <axis xyz="0 1 0"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
  <joint name="b" type="revolute"><parent link="one"/><child link="two"/><origin xyz="0.3 0 0.2" rpy="-1.2 0.5 0.2"/>
    <axis xyz="0.6 0 0.8"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
  <joint name="c" type="prismatic"><parent link="two"/><child link="tip"/><origin xyz="0 0.4 0" rpy="0 0 0.9"/>
    <axis xyz="0 0 1"/><limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
</robot>
""".replace("BODY", BODY)


# mutation: in forward_kinematics._joint compose roll, pitch and yaw the other way round.
def test_urdf_and_mujoco_agree_on_the_same_file(tmp_path):
    mujoco = pytest.importorskip("mujoco")
    (tmp_path / "arm.urdf").write_text(TILTED)
    text = TILTED.replace("<link", '<mujoco><compiler fusestatic="false"/></mujoco><link', 1)
    mujoco.mj_saveLastXML(str(tmp_path / "arm.xml"), mujoco.MjModel.from_xml_string(text))
    joints = ["b", "c", "a"]
    ours, theirs = (load(tmp_path / name, "tip", joints) for name in ("arm.urdf", "arm.xml"))
    q = np.random.default_rng(1).uniform(-1, 1, (20, 3))
    np.testing.assert_allclose(ours(q), theirs(q), atol=1e-5)  # MuJoCo writes 6 digits


# mutation: in Workspace.__call__ any() instead of all().
def test_the_box_holds_all_positions_or_says_no():
    box = Workspace(
        np.array([0.0, -1, 0]), np.array([1.0, 1, 1]), urdf(PLANAR, "tip", ["j1", "j2", "s"]), np.arange(1, 4)
    )
    inside, outside = np.zeros(4), np.array([9, 3.0, 0, 0])  # the first action dim is another one's
    assert box(np.stack([inside, inside])) and not box(np.stack([inside, outside]))


@pytest.mark.parametrize(
    ("text", "tool", "reason"),
    [
        ("<robot", "tip", "expected a URDF, got"),
        (PLANAR, "hand", "tool: expected a link with a joint, got 'hand'"),
        (PLANAR.replace('"s"', '"t"'), "tip", r"tip: expected its moving joints among .* got \['t'\] too"),
        (
            PLANAR.replace("continuous", "floating"),
            "tip",
            "joint j2: expected fixed, revolute or prismatic",
        ),
    ],
)
def test_a_model_that_cannot_say_it_is_refused(text, tool, reason):
    with pytest.raises(KinematicsError, match=reason):
        urdf(text, tool, ["j1", "j2", "s"])
