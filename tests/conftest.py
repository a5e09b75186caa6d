"""For every test: Hypothesis sets no deadline per example, because a busy machine is not a failing test."""

from hypothesis import settings

settings.register_profile("robot_value", deadline=None)
settings.load_profile("robot_value")
