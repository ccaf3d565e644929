"""What the service sends to the backends, and asks them."""
