# Two bridges of one server on one host.
{
  imports = [ ./full_flow.nix ];

  services.mcp-oauth-gateway.servers.time.replicas = 2;
}
