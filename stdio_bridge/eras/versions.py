"""The revisions of MCP."""

from __future__ import annotations

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
