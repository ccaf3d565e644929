"""What `mcp-gatewayctl doctor` checks: each dependency of the gateway, and the gateway from outside."""
