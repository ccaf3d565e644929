# What one server may see of the machine and the network: servers.<name>.sandbox.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  inherit (import ../nix/hardening.nix) relaxations;
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
        - `internet`: public addresses and the resolver; not loopback, private, link-local or metadata addresses.
        - `full`: whatever the host reaches.
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

    readOnlyPaths = paths [ "/home/octocat/notes" ] "Files and directories below {file}`/home`, {file}`/root` or {file}`/run/user`, which it otherwise cannot see, to read.";

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
}
