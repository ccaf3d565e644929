"""The event loop and what it watches: processes, systemd, logs, metrics."""
