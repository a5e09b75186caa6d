"""Recorded episodes: the crash-safe zarr store, its verification, the decoded training cache and the summary page."""

from .manifest import EpisodeDamaged, Problem, StoreError
from .store import EpisodeStore

__all__ = ["EpisodeDamaged", "EpisodeStore", "Problem", "StoreError"]
