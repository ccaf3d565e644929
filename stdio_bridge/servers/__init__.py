"""The side that the bridge starts: processes, who uses them, and how they are spoken to."""
