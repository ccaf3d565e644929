"""`/verify`: the check whether a request may reach an MCP server."""
