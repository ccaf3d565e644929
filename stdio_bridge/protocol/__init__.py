"""MCP and JSON-RPC without any I/O or clock."""
