"""What the service says to the servers behind it, and asks of them."""
