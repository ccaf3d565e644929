# What one server may see of the machine and the network: servers.<name>.sandbox.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (gatewayLib.sandbox) relaxations;
  paths =
    example: description:
    mkOption {
      type = types.listOf types.externalPath;
      default = [ ];
      inherit example description;
    };
in
{
  options.sandbox = {
    network = mkOption {
      type = types.enum [
        "none"
        "internet"
        "full"
      ];
      default = "none";
      example = "internet";
      description = ''
        What the server may reach.

        - `none`: nothing, not even loopback.
        - `internet`: public addresses and the resolver; not this host, and no private, link-local or metadata addresses.
        - `full`: whatever the host reaches.
      '';
    };

    denyAddresses = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.0.2.0/24" ];
      description = ''
        Addresses and networks that it may not reach besides, as {manpage}`systemd.resource-control(5)` writes them in
        `IPAddressDeny`. With `network = "internet"`, name what has a public address and yet is internal: neighbours on
        the host's own link, and hosts that trust this one by its address.
      '';
    };

    root = mkOption {
      type = types.enum [
        "host"
        "store"
      ];
      default = "host";
      example = "store";
      description = ''
        What it sees of the host's files.

        - `host`: those that every user of the host may read, but for {file}`/home`, {file}`/root`, {file}`/run` and
          {file}`/etc/mcp-oauth-gateway`.
        - `store`: the Nix store, the shell, names, time zones and certificate authorities in {file}`/etc`, and the paths
          named below; nothing else.
      '';
    };

    relaxations = mkOption {
      type = types.listOf (types.enum (lib.attrNames relaxations));
      default = [ ];
      example = [ "jit" ];
      description = ''
        Parts of the sandbox that this server does not work with.

        ${lib.concatStringsSep "\n" (lib.mapAttrsToList (name: { reason, ... }: "- `${name}`: ${reason}") relaxations)}
      '';
    };

    readOnlyPaths = paths [ "/home/octocat/notes" ] "Files and directories that it otherwise cannot see, to read: below {file}`/home`, {file}`/root` or {file}`/run/user`, or with `root = \"store\"` anywhere.";

    readWritePaths = paths [ "/srv/documents" ] "Files and directories that it may change, as far as their permissions let it.";

    groups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "documents" ];
      description = ''
        Groups that it belongs to, for files that these may read or write. What it makes in a directory that hands on its
        group (mode 2770) they may read and write, too.
      '';
    };
  };

  options.serviceConfig = mkOption {
    type = types.attrsOf gatewayLib.types.unitSetting;
    default = { };
    example = {
      IOWeight = 50;
      BindReadOnlyPaths = [ "/run/postgresql" ];
    };
    description = ''
      Settings of the `[Service]` section of the unit, see {manpage}`systemd.exec(5)`. A list adds to what the sandbox
      has, another value takes the place of the sandbox's; `lib.mkForce` replaces a list.
    '';
  };

  # What the operator's own settings are merged with.
  config.serviceConfig = gatewayLib.sandbox.serviceConfig config.sandbox;
}
