# Servers that try to break out, one for each kind of network, on a host where there is something to reach.
{ lib, pkgs, ... }:
let
  hostile = {
    command = [ (lib.getExe pkgs.hostile-server) ];
  };
in
{
  imports = [ ./full_flow.nix ];

  services.mcp-oauth-gateway.servers = {
    none = hostile;
    internet = hostile // {
      sandbox.network = "internet";
    };
    full = hostile // {
      sandbox.network = "full";
    };
    # One that keeps something.
    keeper = hostile // {
      stateDirectory = true;
    };
  };
  networking.hosts."127.0.0.1" = map (name: "${name}.mcp.example.com") [
    "none"
    "internet"
    "full"
    "keeper"
  ];
  networking.nameservers = [ "127.0.0.53" ];

  systemd.services = {
    stand-in-resolver = {
      description = "Name server for which every name is one address of the internet";
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${lib.getExe pkgs.stand-in-resolver} --listen 127.0.0.53 --answer 203.0.113.7";
    };
    listener = {
      description = "What answers on every address of the host";
      wantedBy = [ "multi-user.target" ];
      path = [
        pkgs.iproute2
        pkgs.test-client
      ];
      # 203.0.113.7 stands for the internet, the others for what is none of a server's business.
      script = ''
        for address in 203.0.113.7 10.1.1.1 172.16.1.1 192.168.77.1 100.64.1.1 169.254.169.254; do
          ip address add "$address/32" dev lo
        done
        ip address add fd00:ec2::254/128 dev lo
        exec test-client listen 7777
      '';
    };
  };
}
