{ config, ... }:
{
  networking.hostName = "gateway";
  nixpkgs.hostPlatform = "x86_64-linux";
  system.stateVersion = "26.05";

  sops = {
    # Made with `sops secrets.yaml`, for the host's own key; it holds `github-client-secret: …`.
    defaultSopsFile = ./secrets.yaml;
    secrets.github-client-secret.restartUnits = [ "mcp-auth-service.service" ];
  };

  services.mcp-oauth-gateway = {
    enable = true;
    domain = "mcp.example.com"; # and *.mcp.example.com, both pointing here
    openFirewall = true;
    acme.email = "ops@example.com";

    identityProvider.github = {
      clientId = "Ov23li…"; # of an OAuth application with the callback https://mcp.example.com/callback
      clientSecretFile = config.sops.secrets.github-client-secret.path;
      allowedUsers = [ "octocat" ]; # empty everywhere = nobody gets in
    };

    servers = {
      time.enable = true; # https://time.mcp.example.com/mcp
      fetch.enable = true; # https://fetch.mcp.example.com/mcp
    };
  };
}
