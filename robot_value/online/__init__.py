"""Critic and policy keep learning while the robot works: actor and learner in processes of their own, in rounds."""
