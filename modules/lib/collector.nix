# What a unit needs to send traces to the collector, and no more.
{
  lib,
  cfg,
  hardening,
}:
let
  inherit (cfg.tracing) endpoint;
  authority = lib.head (builtins.match "https?://(\\[[^]]+]|[^/:]+).*" endpoint);
  host = lib.removePrefix "[" (lib.removeSuffix "]" authority);
  isAddress = host != authority || builtins.match "[0-9.]+" host != null;
in
{
  # For a unit without a network.
  access = lib.optionalAttrs (endpoint != null) (
    hardening.relax.network
    // (
      if isAddress || host == "localhost" then
        {
          IPAddressDeny = "any";
          IPAddressAllow = [ host ];
        }
      else
        {
          # Which address a name has is not known here. It is resolved by nscd or systemd-resolved.
          BindPaths = [
            "-/run/nscd"
            "-/run/systemd/resolve"
          ];
        }
    )
  );
}
