# The master key and the keys that are derived from it: where each is, and which unit makes it.
{ lib, cfg }:
rec {
  isMasterKeyGenerated = cfg.masterKeyFile == null;
  masterKeyFile =
    if isMasterKeyGenerated then "/var/lib/mcp-oauth-gateway/master-key" else cfg.masterKeyFile;
  # The units that a unit which reads the master key requires.
  masterKeyUnits = lib.optional isMasterKeyGenerated "mcp-oauth-gateway-master-key.service";

  identityKeyFile = name: "/run/mcp-oauth-gateway/identity-${name}";
  identityKeyUnit = name: "mcp-identity-${name}";
}
