"""Rewards, weights and returns made after recording: an episode's labels, their store, what a sampler reads."""
