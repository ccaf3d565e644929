# Which host runs what, and where the others reach it. Pure: from the options to addresses.
{ lib, cfg }:
rec {
  isSingle = cfg.hosts == { };
  here = cfg.hosts.${cfg.hostName} or null;
  has = role: if isSingle then true else here != null && lib.elem role here.roles;

  # Loopback is for this host alone: only where there are others does anything listen on an address.
  listenAddress = if isSingle || here == null then "127.0.0.1" else here.address;
  authority = address: port: "${if lib.hasInfix ":" address then "[${address}]" else address}:${toString port}";

  # NixOS leaves a socket as it is when its address changes, but starts one of a new name and stops the old one.
  socketOf =
    unit: usualPort: address: port:
    if address == "127.0.0.1" && port == usualPort then
      unit
    else
      "${unit}-${lib.replaceStrings [ "[" "]" ] [ "" "" ] (authority address port)}";
  authSocket = socketOf "mcp-auth-service" 9000 listenAddress cfg.port;

  # The address of a network may come up after its sockets.
  socketConfig = lib.optionalAttrs (!isSingle) { FreeBind = true; };

  hostsWith = role: lib.filterAttrs (_: host: lib.elem role host.roles) cfg.hosts;
  # Where each auth service is. Empty where there is but one, on the router's own host.
  instances = lib.optionals (!isSingle) (
    lib.mapAttrsToList (_: host: "http://${authority host.address cfg.port}") (hostsWith "auth")
  );

  enabled = lib.filterAttrs (_: server: server.enable) cfg.servers;
  bridged = lib.filterAttrs (_: server: server.url == null) enabled;

  # Every bridge of one server: { name, host, address, port, offset, instance }.
  replicasOf =
    server:
    let
      chosen = name: _: server.hosts == null || lib.elem name server.hosts;
      hosts =
        if isSingle then
          { "".address = "127.0.0.1"; }
        else
          lib.filterAttrs chosen (hostsWith "bridges");
      nameOf =
        host: index:
        lib.concatStringsSep "-" (
          lib.optional (host != "") host ++ lib.optional (isSingle || server.replicas > 1) (toString index)
        );
      onHost =
        host: { address, ... }:
        lib.genList (offset: {
          name = nameOf host (offset + 1);
          inherit host address offset;
          port = server.port + offset;
          # The first has the server's own name, so that a second one changes nothing about it.
          instance = if offset == 0 then "" else "@${toString (offset + 1)}";
        }) server.replicas;
    in
    lib.concatLists (lib.mapAttrsToList onHost hosts);

  replicasHere =
    server: lib.filter (replica: isSingle || replica.host == cfg.hostName) (replicasOf server);

  # Servers of which this host runs a bridge.
  bridgedHere = lib.optionalAttrs (has "bridges") (
    lib.filterAttrs (_: server: replicasHere server != [ ]) bridged
  );
}
