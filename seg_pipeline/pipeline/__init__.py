"""The stages that a job passes through, and the state of the run that executes them."""
