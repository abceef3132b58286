"""SAM-2's automatic masks in the shape of a GPU: few large steps, and one wait at the end."""
