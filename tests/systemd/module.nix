# The module with stand-ins for what it needs of NixOS: nixpkgs' lib evaluates it anywhere.
{
  configuration,
  lib,
  pkgs ? import ./packages.nix { inherit lib; },
}:
lib.evalModules {
  class = "nixos";
  modules = [
    ./stand_ins.nix
    ../../modules
    configuration
  ];
  specialArgs = {
    inherit pkgs;
    # nixos/lib/utils.nix, which nixpkgs' lib lacks.
    utils.escapeSystemdExecArgs = lib.concatMapStringsSep " " (
      arg: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString arg))
    );
  };
}
