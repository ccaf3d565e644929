# What a unit without a network needs to send traces to the collector, if there is one, and to reach some IP addresses
# besides; and no more.
{
  lib,
  cfg,
  hardening,
}:
let
  inherit (cfg.tracing) endpoint;
  isTraced = endpoint != null;
  authority = lib.head (builtins.match "https?://(\\[[^]]+]|[^/:]+).*" endpoint);
  host = lib.removePrefix "[" (lib.removeSuffix "]" authority);
  isAddress = host != authority || builtins.match "[0-9.]+" host != null || host == "localhost";
in
addresses:
lib.optionalAttrs (isTraced || addresses != [ ]) (
  hardening.relax.network
  // (
    if isTraced && !isAddress then
      {
        # Which address a name has is not known here. It is resolved by nscd or systemd-resolved.
        BindPaths = [
          "-/run/nscd"
          "-/run/systemd/resolve"
        ];
      }
    else
      {
        IPAddressDeny = "any";
        IPAddressAllow = lib.unique (lib.optional isTraced host ++ addresses);
      }
  )
)
