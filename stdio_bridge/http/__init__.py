"""The HTTP server: waitress, its limits, and who may call."""
