# What the host's Traefik can do.
{ config, lib }:
rec {
  credentials = "/run/credentials/traefik.service";

  # What Traefik needs to connect to a server given by `url`: files, by the settings that name them.
  backendFiles =
    server:
    lib.filterAttrs (_: file: file != null) {
      # Interpolation copies a file of the configuration to the store.
      ca_file = if server.urlCaFile == null then null else "${server.urlCaFile}";
      certificate_file = server.urlClientCertificate.certFile or null;
      key_file = server.urlClientCertificate.keyFile or null;
    };
  # What they are called as credentials.
  backendCredential = name: setting: "mcp-${name}.${setting}";

  version = lib.getVersion config.services.traefik.package;

  # WSGI folds X_User_Id, X.User.Id and X-User-Id into one name.
  knowsAliases = lib.versionAtLeast version "3.7.12";
}
