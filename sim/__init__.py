"""MuJoCo robots: robosuite and OGBench behind the Robot protocol, scripted experts, a fleet of worker processes."""
