# A gateway whose operator adds a server, changes one, and removes it again.
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
    removed.configuration = { };
  };
}
