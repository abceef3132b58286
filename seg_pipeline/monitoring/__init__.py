"""The state of the service as a whole, and the alarms about it."""
