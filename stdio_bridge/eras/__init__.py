"""The two eras of MCP: sessions that `initialize` opens (up to 2025-11-25), and requests that stand alone (later)."""
