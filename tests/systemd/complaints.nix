# What the operator of each configuration in a file is told.
# nix-instantiate --eval --strict --json complaints.nix --arg configurations ./cases/mistakes.nix
{
  configurations,
  lib ? import <nixpkgs/lib>,
}:
lib.mapAttrs (
  _: configuration:
  let
    inherit (import ./module.nix { inherit configuration lib; }) config;
  in
  {
    inherit (config) warnings;
    failedAssertions = map (entry: entry.message) (
      lib.filter (entry: !entry.assertion) config.assertions
    );
  }
) (import configurations)
