"""SAM-2's automatic masks."""
