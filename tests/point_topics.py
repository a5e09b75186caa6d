"""The point mass of fakes.py as an arm behind topics, and a steerer for it."""

from __future__ import annotations

import yaml
from fakes import HomingCritic, HomingPolicy, PointMass

from robot_value import wire
from robot_value.episodes import EpisodeStore
from robot_value.loop import Recorder, run_episodes
from robot_value.steering.selectors import softmax
from robot_value.steering.steerer import Steerer
from robot_value.topics import parse

YAML = """
rate: 10.0
max_skew: .inf
state:
  - {topic: /state, type: std_msgs/msg/Float64MultiArray, names: [x, y], unit: m, max_age: 5.0}
action:
  - {name: velocity, topic: /velocity, type: std_msgs/msg/Float64MultiArray, names: [vx, vy], kind: position,
     unit: m/s, low: -1, high: 1, reference: current, max_age: 0.09}
reward: {topic: /reward, type: std_msgs/msg/Float32}
success: {topic: /success, type: std_msgs/msg/Bool}
"""
TOPICS = parse(yaml.safe_load(YAML))
SPEC = TOPICS.spec
SCHEMA = wire.schema(SPEC)


def steerer() -> Steerer:
    return Steerer(HomingPolicy(), HomingCritic(), softmax.Config().build(), n=5, execute=4, seed=3)


def play(folder, seeds) -> EpisodeStore:
    """What our own Recorder stores of the same robot and steerer."""
    store = EpisodeStore.create(folder, SPEC)
    run_episodes(PointMass(batch_size=1), steerer(), watchers=(Recorder(store),), seeds=seeds)
    return store
