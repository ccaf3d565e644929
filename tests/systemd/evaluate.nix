# What the module makes of a configuration, as data: units in systemd's own keys, files, assertions, warnings.
# nix-instantiate --eval --strict --json evaluate.nix --arg configuration ./some.nix
{
  configuration,
  lib ? import <nixpkgs/lib>,
}:
let
  scenario = if lib.isPath configuration then import configuration else configuration;
in
# Several machines, each of which knows its name.
if lib.isAttrs scenario && scenario ? nodes then
  {
    nodes = lib.mapAttrs (
      name: node:
      import ./evaluate.nix {
        inherit lib;
        configuration = {
          imports = [ node ];
          networking.hostName = name;
        };
      }
    ) scenario.nodes;
  }
else
  import ./machine.nix { inherit configuration lib; }
