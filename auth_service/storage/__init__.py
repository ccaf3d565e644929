"""All state, in Redis and on the disk of this host."""
