"""Off-policy evaluation: how good a policy would be, from episodes that others made, and how far to believe it."""
