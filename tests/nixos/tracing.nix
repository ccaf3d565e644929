# The gateway of full_flow with a collector.
{ lib, pkgs, ... }:
{
  imports = [ ./full_flow.nix ];

  services.mcp-oauth-gateway.tracing.endpoint = "http://127.0.0.1:4318/v1/traces";

  systemd.services.stand-in-collector = {
    description = "Stand-in for a collector of traces";
    wantedBy = [ "multi-user.target" ];
    serviceConfig.ExecStart = "${lib.getExe pkgs.stand-in-collector} --port 4318 --file /run/traced";
  };
}
