# The README's example as a host that can be built; a test compares the two.
{ lib, pkgs, ... }:
{
  services.mcp-oauth-gateway = {
    enable = true;
    domain = "mcp.example.com"; # and *.mcp.example.com, both pointing here
    openFirewall = true; # ports 80 and 443
    acme.email = "ops@example.com";
    identityProvider.github = {
      clientId = "Ov23li…";
      clientSecretFile = "/run/secrets/github-client-secret";
      allowedUsers = [ "octocat" ]; # empty everywhere = nobody gets in
    };
    servers.time.enable = true; # from the catalogue: https://time.mcp.example.com/mcp
    servers.clock.command = [ (lib.getExe pkgs.mcp-server-time) ]; # any stdio server, under any name
    servers.wiki.url = "http://10.0.0.5:3000/mcp"; # already speaks HTTP
  };
}
