"""The routes, one file a kind."""
