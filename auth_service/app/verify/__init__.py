"""`/verify`: whether a request may reach an MCP server."""
