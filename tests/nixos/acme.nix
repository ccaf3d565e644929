# Three gateways that obtain their certificates, each by another challenge, from a certificate authority on their host.
let
  common =
    { lib, pkgs, ... }:
    {
      imports = [ ./full_flow.nix ];

      services.mcp-oauth-gateway = {
        certificate = {
          certFile = lib.mkForce null;
          keyFile = lib.mkForce null;
        };
        acme = {
          email = "ops@example.com";
          server = "https://acme.example.com:14000/dir";
          caCertificates = [ "/etc/test-certificates/server.crt" ];
        };
      };

      networking.hosts."127.0.0.1" = [ "acme.example.com" ];
      environment.etc."pebble.json".text = builtins.toJSON {
        pebble = {
          listenAddress = "127.0.0.1:14000";
          managementListenAddress = "127.0.0.1:15000";
          certificate = "/etc/test-certificates/server.crt";
          privateKey = "/etc/test-certificates/server.key";
          httpPort = 80;
          tlsPort = 443;
          ocspResponderURL = "";
          externalAccountBindingRequired = false;
        };
      };
      systemd.services = {
        pebble = {
          description = "Certificate authority";
          wantedBy = [ "multi-user.target" ];
          environment = {
            PEBBLE_VA_NOSLEEP = "1";
            PEBBLE_WFE_NONCEREJECT = "0";
          };
          serviceConfig.ExecStart = "${pkgs.pebble}/bin/pebble -config /etc/pebble.json -dnsserver 127.0.0.1:8053";
        };
        # Every name is this host; TXT records are what it is told.
        names = {
          description = "Name server that the certificate authority asks";
          wantedBy = [ "multi-user.target" ];
          serviceConfig.ExecStart = "${pkgs.pebble}/bin/pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 \"\" -dns01 127.0.0.1:8053 -management 127.0.0.1:8055 -http01 \"\" -https01 \"\" -tlsalpn01 \"\" -doh \"\"";
        };
      };
    };
in
{
  nodes = {
    dns =
      { lib, pkgs, ... }:
      {
        imports = [ common ];

        services.mcp-oauth-gateway.acme = {
          challenge = "dns-01";
          dnsProvider = "exec";
          environmentFile = "/etc/test-secrets/acme.env";
        };
        environment.etc."test-secrets/acme.env".text = ''
          EXEC_PATH=${lib.getExe pkgs.set-dns-record}
          EXEC_SEQUENCE_INTERVAL=1
        '';
        # The name server is asked by the certificate authority alone.
        services.traefik.staticConfigOptions.certificatesResolvers.mcp-oauth-gateway.acme.dnsChallenge.propagation.disableChecks =
          true;
      };
    http = {
      imports = [ common ];
      services.mcp-oauth-gateway.acme.challenge = "http-01";
    };
    tls = {
      imports = [ common ];
      services.mcp-oauth-gateway.acme.challenge = "tls-alpn-01";
    };
  };
}
