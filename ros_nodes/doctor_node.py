"""Says on /diagnostics what is installed and whether a checkpoint loads and for which robot it is."""

from __future__ import annotations

import sys

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from .health import Finding, examine


class DoctorNode(Node):
    def __init__(self) -> None:
        super().__init__("doctor_node")
        checkpoint = self._parameter(
            "checkpoint", "", "Checkpoint folder to verify and load once at start; empty: none."
        )
        period = self._parameter("period", 1.0, "Seconds between two messages on /diagnostics.", 0.05, 60.0)
        self._status = [_status(finding) for finding in examine(checkpoint)]
        for status in self._status:
            self.get_logger().info(f"{status.name}: {status.message}")
        self._publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = self.create_timer(period, self._publish)

    def _publish(self) -> None:
        message = DiagnosticArray(status=self._status)
        message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _parameter(self, name: str, default: str | float, description: str, *limits: float) -> str | float:
        """Read once at start, hence read-only afterwards."""
        ranges = [FloatingPointRange(from_value=limits[0], to_value=limits[1])] if limits else []
        descriptor = ParameterDescriptor(description=description, read_only=True, floating_point_range=ranges)
        return self.declare_parameter(name, default, descriptor).value


def _status(finding: Finding) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=bytes([finding.level]),
        name=finding.name,
        message=finding.message,
        hardware_id="robot_value",
        values=[KeyValue(key=key, value=value) for key, value in finding.values.items()],
    )


def main(args: list[str] | None = None) -> None:
    rclpy.init(args=args)
    try:
        rclpy.spin(DoctorNode())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # Ctrl-C and SIGTERM are how a node ends
    except ParameterException as error:
        sys.exit(f"doctor_node: {error}")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
