"""UDP alone for a process whose commands must not wait for another one.

In Fast DDS' shared memory a peer that is killed while it holds a port's lock makes who writes to it wait for up to a
second (Fast-DDS issues 5469, 6535).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

LOOPBACK = Path(__file__).with_name("loopback_udp.xml")
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # Kilted, Jazzy
TRANSPORTS, RANGE = "FASTDDS_BUILTIN_TRANSPORTS", "ROS_AUTOMATIC_DISCOVERY_RANGE"


def udp_only(middleware: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Before rclpy.init. What the user has set stays, and other middleware than Fast DDS."""
    if not middleware.startswith("rmw_fastrtps") or any(name in environment for name in (*PROFILES, TRANSPORTS)):
        return
    environment[TRANSPORTS] = "UDPv4"
    if environment.get(RANGE, "").upper() == "LOCALHOST":  # rmw_fastrtps adds shared memory of its own then
        environment[RANGE] = "SYSTEM_DEFAULT"
        environment.update(dict.fromkeys(PROFILES, str(LOOPBACK)))
