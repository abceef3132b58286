"""Where weights are, and how they come there."""
