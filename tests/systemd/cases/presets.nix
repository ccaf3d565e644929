# Every entry of the catalogue, each with nothing but `enable`.
{
  services.mcp-oauth-gateway = {
    enable = true;
    domain = "mcp.example.com";
    acme.email = "ops@example.com";
    identityProvider.github = {
      clientId = "Iv1.test";
      clientSecretFile = "/run/secrets/github";
      allowedUsers = [ "octocat" ];
    };
    servers = {
      everything.enable = true;
      fetch.enable = true;
      filesystem.enable = true;
      git.enable = true;
      memory.enable = true;
      playwright.enable = true;
      sequential-thinking.enable = true;
      time.enable = true;
      tmux.enable = true;
    };
  };
}
