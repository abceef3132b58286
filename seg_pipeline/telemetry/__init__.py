"""What each process says of itself: counts and log lines."""
