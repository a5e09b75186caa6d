"""One repository that is a pip package and a ROS 2 ament_python package; see docs/architecture.md, Packaging."""

import os
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent  # colcon --symlink-install runs a link to this file
FOLDERS = {"robot_value.sim": "sim", "robot_value.ros_nodes": "ros_nodes", "robot_value.datasets": "datasets"}

CORE = ["numpy>=2,<2.3", "zarr>=3.1,<4", "draccus>=0.11", "scipy>=1.13", "tqdm>=4.66", "PyYAML>=6"]
EXTRAS = {
    "learn": ["torch>=2.7,<2.12", "diffusers>=0.35,<0.40", "safetensors>=0.5", "tensorboard>=2.18", "matplotlib>=3.9",
              "imageio>=2.34", "imageio-ffmpeg>=0.5", "pillow>=10"],
    "sim": ["mujoco==3.6.0", "robosuite==1.5.1", "mink==0.0.13", "opencv-python==4.11.0.86", "numba>=0.61"],
    "ogbench": ["ogbench==1.2.2"],
    "lerobot": ["lerobot[dataset,diffusion,smolvla]==0.6.1", "torchvision>=0.22"],
    "ros": ["ros-rclpy==9.1.2", "ros-rmw-fastrtps-cpp==9.3.3", "ros-std-msgs==5.5.1", "ros-sensor-msgs==5.5.1",
            "ros-geometry-msgs==5.5.1", "ros-trajectory-msgs==5.5.1", "ros-diagnostic-msgs==5.5.1",
            "ros-std-srvs==5.5.1", "ros-builtin-interfaces==2.3.0", "ros-lifecycle-msgs==2.3.0",
            "ros-action-msgs==2.3.0", "ros-rcl-interfaces==2.3.0", "rosbags>=0.11", "safetensors>=0.5"],
    "data": ["h5py>=3.11", "pyarrow>=18", "av>=13", "pillow>=10", "fsspec>=2024.6", "rosbags>=0.11"],
    "umi": ["imagecodecs>=2024.6"],
    "view": ["rerun-sdk>=0.32,<0.34", "foxglove-sdk>=0.25.1,<0.26", "pillow>=10"],  # LeRobot 0.6.1's pins
    "scale": ["ray>=2.40", "accelerate>=1.10"],
    "test": ["pytest>=8", "pytest-rerunfailures>=15", "hypothesis>=6.100"],
    "dev": ["pytest>=8", "pytest-timeout>=2.3", "pytest-rerunfailures>=15", "pytest-cov>=5", "coverage>=7.6",
            "hypothesis>=6.100", "ruff>=0.9", "imagecodecs>=2024.6", "tensorstore>=0.1.70", "selenium>=4.30",
            "mcap>=1.2"],
}  # fmt: skip
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

setup(
    name="robot_value",
    version="0.1.0",
    description="Value-guided steering of chunked robot policies",
    license="Apache-2.0",
    python_requires=">=3.12",
    packages=[*find_packages(include=["robot_value", "robot_value.*"]), *FOLDERS],
    package_data={"robot_value.replay": ["page_assets/*"], "robot_value.ros_nodes": ["*.xml"]},
    package_dir={name: os.path.relpath(ROOT / folder) for name, folder in FOLDERS.items()},
    data_files=[
        ("share/ament_index/resource_index/packages", ["ros_nodes/resource/robot_value"]),
        ("share/robot_value", ["package.xml"]),
        ("share/robot_value/launch", glob("launch/*.launch.py")),
        ("share/robot_value/launch/params", glob("launch/params/*.yaml")),
        ("lib/robot_value", glob("ros_nodes/scripts/*")),
    ],
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "robot-value = robot_value.cli:main",
            "doctor_node = robot_value.ros_nodes.doctor_node:main",
            "guard_node = robot_value.ros_nodes.guard_node:main",
            "steering_node = robot_value.ros_nodes.steering_node:main",
            "recorder_node = robot_value.ros_nodes.recorder_node:main",
            "simulated_arm_node = robot_value.ros_nodes.simulated_arm_node:main",
            "teleop_node = robot_value.ros_nodes.teleop_node:main",
            "replay_node = robot_value.ros_nodes.replay_node:main",
        ]
    },
    options={
        "develop": {"script_dir": "$base/lib/robot_value"},
        "install": {"install_scripts": "$base/lib/robot_value"},
    },
)
