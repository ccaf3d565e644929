# What one server may see of the host and the network.
{
  config,
  gatewayLib,
  lib,
  name,
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
        What the server may connect to.

        - `none`: nothing, not even loopback.
        - `internet`: public addresses and the name resolver, but not this host and no private, link-local or metadata
          addresses.
        - `full`: everything that the host can connect to.
      '';
    };

    denyAddresses = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.0.2.0/24" ];
      description = ''
        Further addresses and networks that the server may not connect to, in the format of `IPAddressDeny` in
        {manpage}`systemd.resource-control(5)`. With `network = "internet"`, list internal hosts that have public
        addresses: neighbours on the host's own link, and hosts that trust this host because of its address.
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
        Which of the host's files the server sees.

        - `host`: the files that every user of the host may read, except those in {file}`/home`, {file}`/root`, {file}`/run`
          and {file}`/etc/mcp-oauth-gateway`.
        - `store`: the Nix store, the shell, the files in {file}`/etc` for names, time zones and certificate authorities, and
          the paths in {option}`readOnlyPaths` and {option}`readWritePaths`.
      '';
    };

    relaxations = mkOption {
      type = types.listOf (types.enum (lib.attrNames relaxations));
      default = [ ];
      example = [ "jit" ];
      description = ''
        Parts of the sandbox to switch off, because the server does not work with them.

        ${lib.concatStringsSep "\n" (lib.mapAttrsToList (name: { reason, ... }: "- `${name}`: ${reason}") relaxations)}
      '';
    };

    readOnlyPaths = paths [ "/home/octocat/notes" ] "Files and directories that the server may read although they are hidden: below {file}`/home`, {file}`/root` or {file}`/run/user`, or anywhere with `root = \"store\"`.";

    readWritePaths = paths [ "/srv/documents" ] "Files and directories that the server may change, if their permissions allow it.";

    groups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "documents" ];
      description = ''
        Supplementary groups of the server, for files that these groups may read or write. The groups may also read and write
        the files that the server creates in a directory with the setgid bit (mode 2770).
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
      Settings of the `[Service]` section of the units that its processes run in, see {manpage}`systemd.exec(5)`. A list
      is added to the list of the sandbox; any other value replaces the value of the sandbox. `lib.mkForce` replaces a
      list.
    '';
  };

  # The operator's own settings are merged with these.
  config.serviceConfig = lib.mkMerge [
    (gatewayLib.sandbox.serviceConfig name config.sandbox)
    (lib.mkIf (config.stateDirectory == "per-user") gatewayLib.sandbox.perUser)
  ];
}
