"""`python -m seg_pipeline.cli`, the same as the command `seg-pipeline`."""

from seg_pipeline.cli.main import app

app()
