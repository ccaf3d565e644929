"""What runs in a worker: the ASGI and Flask applications, and everything that they answer."""
