"""Streamable HTTP in front of one unmodified stdio MCP server."""
