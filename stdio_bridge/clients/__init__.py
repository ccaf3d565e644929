"""The side that calls the bridge: HTTP of both eras, sessions and calls."""
