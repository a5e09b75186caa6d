"""What the guard asks of Fast DDS, and of nobody else."""

import xml.etree.ElementTree as ElementTree

import pytest

from robot_value.ros_nodes.transport import LOOPBACK, PROFILES, RANGE, TRANSPORTS, udp_only

FAST = "rmw_fastrtps_cpp"


def test_on_a_network_shared_memory_alone_is_left_out():
    # mutation: the loopback profile wherever it runs
    environment = {}
    udp_only(FAST, environment)
    assert environment == {TRANSPORTS: "UDPv4"}


def test_on_the_loopback_interface_a_profile_says_so_because_the_range_would_add_shared_memory():
    # mutation: TRANSPORTS alone
    environment = {RANGE: "localhost"}
    udp_only(FAST, environment)
    assert environment[RANGE] == "SYSTEM_DEFAULT" and {environment[name] for name in PROFILES} == {str(LOOPBACK)}
    addresses = {each.text for each in ElementTree.parse(LOOPBACK).iter() if each.tag.endswith("address")}
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("before", [{TRANSPORTS: "SHM"}, {PROFILES[0]: "mine.xml", RANGE: "LOCALHOST"}])
def test_what_the_user_chose_stays(before):
    # mutation: look at one of the variables only
    environment = dict(before)
    udp_only(FAST, environment)
    assert environment == before


def test_other_middleware_is_left_alone():
    # mutation: do not ask which it is
    environment = {RANGE: "LOCALHOST"}
    udp_only("rmw_cyclonedds_cpp", environment)
    assert environment == {RANGE: "LOCALHOST"}
