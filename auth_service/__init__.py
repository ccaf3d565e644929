"""The gateway's own service: authorization server, and the answer to each request that reaches an MCP server."""
