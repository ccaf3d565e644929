# What the host's Traefik can do.
{ config, lib }:
rec {
  version = lib.getVersion config.services.traefik.package;

  # WSGI folds X_User_Id, X.User.Id and X-User-Id into one name.
  knowsAliases = lib.versionAtLeast version "3.7.12";
}
