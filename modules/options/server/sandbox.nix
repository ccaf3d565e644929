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
  byName =
    types.submodule {
      options.domains = mkOption {
        type = types.listOf types.str;
        example = [
          "api.github.com"
          "*.githubusercontent.com"
        ];
        description = ''
          Names of the hosts whose port 443 the server may connect to, in lower case. `*.example.com` stands for every name
          below `example.com`, and not for `example.com`. A proxy is the only way there, which the server finds in the
          variable `HTTPS_PROXY`. A name with an address that `network = "internet"` does not reach leads nowhere.
        '';
      };
    }
    // {
      # For the message about a value of another type.
      description = "{ domains = [ … ]; }";
      descriptionClass = "noun";
    };
in
{
  options.sandbox = {
    network = mkOption {
      # The page of options has what the submodule has.
      type =
        types.either (types.enum [
          "none"
          "internet"
          "full"
        ]) byName
        // {
          inherit (byName) getSubOptions;
        };
      default = "none";
      example.domains = [ "api.github.com" ];
      description = ''
        What the server may connect to.

        - `none`: nothing, not even loopback.
        - `{ domains = [ … ]; }`: hosts with these names.
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
        {manpage}`systemd.resource-control(5)`. With `network = "internet"` or `domains`, list internal hosts that have public
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

        ${lib.concatStringsSep "\n" (
          lib.mapAttrsToList (name: { reason, ... }: "- `${name}`: ${reason}") relaxations
        )}
      '';
    };

    readOnlyPaths =
      paths [ "/home/octocat/notes" ]
        "Files and directories that the server may read although they are hidden: below {file}`/home`, {file}`/root` or {file}`/run/user`, or anywhere with `root = \"store\"`.";

    readWritePaths = paths [
      "/srv/documents"
    ] "Files and directories that the server may change, if their permissions allow it.";

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
  config.serviceConfig = lib.mkIf (config.url == null) (
    lib.mkMerge [
      (gatewayLib.sandbox.serviceConfig name config.sandbox)
      (lib.mkIf (config.stateDirectory == "per-user") gatewayLib.sandbox.perUser)
    ]
  );
}
