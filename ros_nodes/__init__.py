"""ROS 2 nodes: thin rclpy wrappers around robot_value; they start without torch unless they need it."""
