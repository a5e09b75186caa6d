"""The pure halves of the ROS nodes: what they decide, record and check, without rclpy; only steering needs torch."""
