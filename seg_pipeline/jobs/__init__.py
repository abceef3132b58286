"""A job's records and its way through the store."""
