# Servers that try to break out, one for each kind of network and for each relaxation, on a host where there is something
# to reach: the host's own addresses, and through `uplink` another host, which has those of the internet and of clouds.
{ lib, pkgs, ... }:
let
  command = [ (lib.getExe pkgs.hostile-server) ];
  sandboxes = {
    none = { };
    internet = {
      network = "internet";
      # On the host's own link, with a public address.
      denyAddresses = [ "192.31.196.9" ];
    };
    domains = {
      network.domains = [
        "api.example.com"
        "*.addresses.example"
      ];
      denyAddresses = [ "192.31.196.9" ];
    };
    full.network = "full";
    # Of a browser: those of playwright in the catalogue.
    browser = {
      network = "internet";
      relaxations = [
        "jit"
        "proc"
        "capabilities"
      ];
    };
    nested.relaxations = [
      "namespaces"
      "resources"
      "devices"
    ];
    # Where the container has what NixOS has in the store.
    store = {
      network = "internet";
      root = "store";
      readOnlyPaths = [ "/opt" ];
    };
  };
  backends = {
    wiki = { };
    unidentified.urlClientCertificate = null;
    mistrusted.urlCaFile = "/etc/test-certificates/server.crt";
    unknown.urlCaFile = null;
  };
in
{
  imports = [ ./full_flow.nix ];

  services.mcp-oauth-gateway.servers =
    lib.mapAttrs (name: sandbox: {
      inherit command sandbox;
      environment.BROWSER = lib.getExe pkgs.chromium;
      limits = {
        memory = lib.mkIf (name == "none") "256M";
        tasks = lib.mkIf (name == "none") 100;
      };
    }) sandboxes
    // {
      # Those that keep something: the same for all users, or of each user.
      keeper = {
        inherit command;
        stateDirectory = true;
      };
      diary = {
        inherit command;
        stateDirectory = "per-user";
      };
      album = {
        inherit command;
        stateDirectory = "per-user";
        isolation = "per-user";
        sandbox = sandboxes.store;
      };
      # Each of its users has a token of their own.
      vault = {
        inherit command;
        userCredentials.VAULT_TOKEN.label = "Vault token";
      };
      # Each of its users has connected an account, and has files of their own.
      drive = {
        inherit command;
        stateDirectory = "per-user";
        userCredentials.DRIVE_TOKEN = {
          label = "Drive";
          oauth = {
            authorizationEndpoint = "https://drive.example.com/authorize";
            tokenEndpoint = "https://drive.example.com/token";
            revocationEndpoint = "https://drive.example.com/revoke";
            clientId = "gateway";
            clientSecretFile = "/etc/test-secrets/drive-client-secret";
            scopes = [ "files.read" ];
          };
        };
      };
    }
    # At a URL, where the gateway alone is let in. Of all but the first, something is missing or is another.
    // lib.mapAttrs (
      path: changes:
      {
        url = "https://backend.mcp.example.com:8443/${path}";
        urlCredentialFile = "/etc/test-secrets/backend-token";
        urlClientCertificate = {
          certFile = "/etc/test-certificates/gateway.pem";
          keyFile = "/etc/test-certificates/gateway.pem";
        };
        urlCaFile = "/etc/test-certificates/private-ca.pem";
      }
      // changes
    ) backends;
  services.mcp-oauth-gateway.identityProvider.github.allowedUsers = [ "hubot" ];
  networking.hosts."127.0.0.1" =
    map (name: "${name}.mcp.example.com") (
      lib.attrNames (sandboxes // backends)
      ++ [
        "album"
        "backend"
        "diary"
        "drive"
        "keeper"
        "vault"
      ]
    )
    ++ [ "drive.example.com" ];
  systemd.tmpfiles.settings.sandboxes."/opt".d = {
    mode = "0755";
    user = "root";
    group = "root";
  };
  networking.nameservers = [ "127.0.0.53" ];

  services.traefik.dynamicConfigOptions.http = {
    routers.drive = {
      rule = "Host(`drive.example.com`)";
      entryPoints = [ "websecure" ];
      tls = { };
      service = "drive";
    };
    services.drive.loadBalancer.servers = [ { url = "http://127.0.0.1:8091"; } ];
  };

  systemd.services = {
    stand-in-drive = {
      description = "Where users have the accounts that they connect";
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${lib.getExe pkgs.stand-in-drive} --listen 127.0.0.1:8091 --origin https://drive.example.com --callback-url https://mcp.example.com/connections/callback/drive/DRIVE_TOKEN";
    };
    stand-in-backend = {
      description = "Servers at a URL";
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${lib.getExe pkgs.stand-in-backend} --port 8443 --certificate /etc/test-certificates/backend.pem --authority /etc/test-certificates/private-ca.pem";
    };
    stand-in-resolver = {
      description = "Name server for which every name is one address of the internet, or the one that it says";
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${lib.getExe pkgs.stand-in-resolver} --listen 127.0.0.53 --answer 192.31.196.7";
    };
    listener = {
      description = "What answers on every address of the host";
      wantedBy = [ "multi-user.target" ];
      after = [ "uplink.service" ];
      requires = [ "uplink.service" ];
      path = [
        pkgs.iproute2
        pkgs.test-client
      ];
      script = ''
        for address in 10.1.1.1 172.16.1.1 192.168.77.1 100.64.1.1; do
          ip address add "$address/32" dev lo
        done
        exec test-client listen 7777
      '';
    };
    uplink = {
      description = "Another host, and the link to it";
      path = [ pkgs.iproute2 ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
      # The addresses of AS112, which are public and belong to no operator, stand for the internet.
      script = ''
        ip netns add internet
        ip link add uplink type veth peer name uplink netns internet
        ip address add 192.31.196.1/24 dev uplink
        ip address add 2620:4f:8000::1/64 dev uplink nodad
        ip link set uplink up
        ip -n internet link set lo up
        ip -n internet link set uplink up
        for address in 192.31.196.7 192.31.196.9; do
          ip -n internet address add "$address/24" dev uplink
        done
        ip -n internet address add 2620:4f:8000::7/64 dev uplink nodad
        for address in 10.2.2.2 100.100.100.200 168.63.129.16 169.254.169.254 192.0.0.192 192.88.99.1 198.18.1.1; do
          ip -n internet address add "$address/32" dev lo
          ip route add "$address/32" via 192.31.196.7
        done
        for address in fd00:ec2::254 fec0::1 2001::1 2002::1 5f00::1 ::10.2.2.2 64:ff9b::10.2.2.2; do
          ip -n internet address add "$address/128" dev lo nodad
          ip route add "$address/128" via 2620:4f:8000::7
        done
      '';
    };
    internet = {
      description = "What answers on every address of the other host";
      wantedBy = [ "multi-user.target" ];
      after = [ "uplink.service" ];
      requires = [ "uplink.service" ];
      path = [
        pkgs.iproute2
        pkgs.test-client
      ];
      script = "exec ip netns exec internet test-client listen 7777";
    };
    internet-https = {
      description = "What answers there at the port of https";
      wantedBy = [ "multi-user.target" ];
      after = [ "uplink.service" ];
      requires = [ "uplink.service" ];
      path = [
        pkgs.iproute2
        pkgs.test-client
      ];
      script = "exec ip netns exec internet test-client listen 443 --echo";
    };
  };
}
