# What the units of one server are called, and where its bridges find the socket that starts its processes.
{ lib }:
rec {
  # A template, for the units of the processes, and the socket that starts them.
  serverUnit = name: "mcp-server-${name}";

  # In a slice's name each hyphen is a level.
  sliceOf = name: "mcp-gateway-${lib.replaceStrings [ "-" ] [ "\\x2d" ] name}.slice";

  # What a server keeps. That of each user has a directory of another name: no one gets it when the servers option changes.
  stateOf =
    name: server: if server.stateDirectory == "per-user" then serverUnit name else "mcp-bridge-${name}";

  # The egress proxy of one server, and where it listens.
  egressUnit = name: "mcp-egress-${name}";
  egressSocket = name: "/run/mcp-oauth-gateway/egress/${name}/socket";

  # Starts a socket that has failed again.
  recovery = "mcp-gateway-recovery";
  recoveryOf = socket: "${recovery}@${socket}.service";

  serverSocket = name: "/run/mcp-oauth-gateway/servers/${name}/socket";
  # The journal of records of calls, and where its sockets are.
  callNamespace = "mcp-gateway-calls";
  callJournal = "/run/systemd/journal.${callNamespace}";

  # The directory, in the only sandbox that has it.
  socketOfBridge = "/run/mcp-server/socket";
}
