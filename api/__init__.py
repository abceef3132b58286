"""The HTTP service: takes pictures in, hands results out. It knows the store and the inbox, never
Dagster or torch."""
