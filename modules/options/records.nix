# Records of calls: who called what, and how that ended.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.records = {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether bridges write a record of each call: user, client, tool, outcome and time. Records have a journal of their own
        on each host that runs bridges; `mcp-gatewayctl calls` and `journalctl --namespace=mcp-gateway-calls` show it. See
        {file}`docs/calls.md`.
      '';
    };

    size = mkOption {
      type = types.str;
      default = "1G";
      example = "10G";
      description = ''
        Maximum size of that journal; the oldest records make room. A change takes effect when
        `systemd-journald@mcp-gateway-calls` is started again.
      '';
    };

    arguments = mkOption {
      type = types.enum [
        "none"
        "digest"
        "full"
      ];
      default = "none";
      example = "digest";
      description = ''
        What records have of a call's arguments. With `digest`, a keyed hash: it shows which calls had equal arguments, and
        not what they were. Warning: with `full`, arguments are in the journal as they are. They may hold passwords, tokens,
        personal data and private documents, which everyone who may read the journal can then read.
      '';
    };
  };
}
