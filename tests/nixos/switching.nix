# A gateway whose operator adds a server, changes it, moves it to another port, removes it again, upgrades the whole, and
# moves that, too.
{ lib, pkgs, ... }:
let
  time = timezone: {
    command = [
      (lib.getExe pkgs.mcp-server-time)
      "--local-timezone=${timezone}"
    ];
  };
  with_ = server: {
    services.mcp-oauth-gateway.servers.other = server;
  };
in
{
  imports = [ ./full_flow.nix ];

  networking.hosts."127.0.0.1" = [ "other.mcp.example.com" ];

  specialisation = {
    added.configuration = with_ (time "UTC");
    changed.configuration = with_ (time "Asia/Tokyo");
    moved.configuration = with_ (time "Asia/Tokyo" // { port = 21000; });
    removed.configuration = { };
    upgraded.configuration.services.mcp-oauth-gateway.package = pkgs.mcp-oauth-gateway-next;
    elsewhere.configuration.services.mcp-oauth-gateway = {
      package = pkgs.mcp-oauth-gateway-next;
      port = 9010;
    };
  };
}
