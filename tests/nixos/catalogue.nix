# Entries of the catalogue, with hardly more than `enable`; cases/presets.nix has all of them.
{
  imports = [ ./full_flow.nix ];

  services.mcp-oauth-gateway.servers = {
    everything.enable = true;
    fetch.enable = true;
    filesystem = {
      enable = true;
      arguments = [ "/srv/documents" ];
    };
    drafts = {
      preset = "filesystem";
      arguments = [ "/srv/drafts" ];
      sandbox = {
        readWritePaths = [ "/srv/drafts" ];
        groups = [ "drafts" ];
      };
    };
    memory.enable = true;
    sequential-thinking.enable = true;
  };

  # Five of them run on Node.js.
  virtualisation.memorySize = 3072;

  networking.hosts."127.0.0.1" = [
    "drafts.mcp.example.com"
    "filesystem.mcp.example.com"
    "memory.mcp.example.com"
  ];
  systemd.tmpfiles.settings.documents = {
    "/srv/documents".d = {
      mode = "0755";
      user = "root";
      group = "root";
    };
    "/srv/drafts".d = {
      mode = "2770";
      user = "drafts";
      group = "drafts";
    };
  };
  users.users.drafts = {
    isSystemUser = true;
    group = "drafts";
  };
  users.groups.drafts = { };
}
