"""How the service as a whole stands, and what of that is an alarm."""
