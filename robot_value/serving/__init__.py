"""A policy and its critic on a machine with a GPU, the robot elsewhere: framed safetensors, no pickle, deadlines."""
