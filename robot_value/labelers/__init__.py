"""Rewards, weights and choices for value learning, one labeler per file; each writes beside the episodes."""
