"""The service as operators see it: log, audit events, metrics."""
