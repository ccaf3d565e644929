# The module with stand-ins for what it needs of NixOS: nixpkgs' lib evaluates it anywhere.
{
  configuration,
  lib,
  # Which names of services.traefik to stand in for: those of tests/systemd/traefik.nix.
  traefikNames ? "options",
}:
let
  pkgs = import ./packages.nix { inherit lib; };
in
lib.evalModules {
  modules = [
    ./stand_ins.nix
    ../../modules
    configuration
  ];
  specialArgs = {
    inherit pkgs traefikNames;
    # nixos/lib/utils.nix, which nixpkgs' lib lacks.
    utils.escapeSystemdExecArgs = lib.concatMapStringsSep " " (
      arg: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString arg))
    );
  };
}
