"""Server processes: how they start and end, who uses them, and how the bridge speaks with them."""
