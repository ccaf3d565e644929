"""The parts that run in a worker: the ASGI and Flask applications with all their endpoints."""
