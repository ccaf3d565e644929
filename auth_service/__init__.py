"""The auth service of the gateway: the authorization server, and the check of each request to an MCP server."""
