"""What operators see of the service: log, audit events, metrics."""
