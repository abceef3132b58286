"""The outside world: image hosts, the queue, the app server."""
