# What options/ and config/ share, computed once: the argument `gatewayLib` of every module here.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  hardening = import ./hardening.nix { inherit lib cfg; };
  units = import ./units.nix { inherit lib; };
in
{
  _module.args.gatewayLib = {
    checkedJson = import ./checked-json.nix { inherit lib pkgs; };
    checks = import ./checks.nix { inherit lib cfg; };
    inherit hardening;
    identityProvider = import ./identity-provider.nix { inherit cfg; };
    keys = import ./keys.nix { inherit lib cfg; };
    ports = import ./ports.nix { inherit lib; };
    reach = import ./reach.nix { inherit lib cfg hardening; };
    sandbox = import ./sandbox.nix { inherit lib hardening units; };
    topology = import ./topology.nix { inherit lib cfg; };
    traefik = import ./traefik.nix { inherit config lib; };
    types = import ./types.nix { inherit lib; };
    inherit units;
  };
}
