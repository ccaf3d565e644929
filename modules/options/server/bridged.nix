# Which options of one server are set for its bridge or its processes.
{
  lib,
  options,
  ...
}:
let
  forEveryServer = [
    "_module"
    "allowedGroups"
    "allowedOrganizations"
    "allowedTeams"
    "allowedUsers"
    "bridgedOptions"
    "command"
    "description"
    "enable"
    "preset"
    "publicUrl"
    "routing"
    "scopes"
    "title"
    "url"
    "urlCaFile"
    "urlClientCertificate"
    "urlCredentialFile"
  ];
  others = lib.collect lib.isOption (removeAttrs options forEveryServer);
in
{
  options.bridgedOptions = lib.mkOption {
    type = lib.types.listOf lib.types.str;
    internal = true;
    readOnly = true;
    description = "The names of the options that only a server with a bridge has a use for, and that are not as by default.";
  };

  config.bridgedOptions = map (option: lib.showOption option.loc) (
    lib.filter (option: option.value != option.default) others
  );
}
