"""The metrics and log lines of every process."""
