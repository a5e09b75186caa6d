"""Logged episodes in, an honest answer out: what steering would have done, and whether the critic is right."""
