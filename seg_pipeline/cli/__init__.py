"""The `seg-pipeline` command."""
