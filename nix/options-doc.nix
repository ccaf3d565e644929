# Every option of the module as data, for docs/options.md.
{ lib, pkgs }:
let
  inherit
    (lib.evalModules {
      modules = [
        ../modules
        # The options of NixOS that the module sets are not declared here.
        { _module.check = false; }
      ];
      specialArgs = {
        inherit pkgs;
        utils = { };
      };
    })
    options
    ;

  # A value is code unless it is marked as Markdown.
  text = value: {
    isCode = value._type or null != "literalMD";
    text = if value ? _type then value.text else lib.generators.toPretty { } value;
  };
in
map
  (option: {
    inherit (option) name type readOnly;
    description = lib.trim (option.description or "");
    default = if option ? default then text option.default else null;
    example = if option ? example then text option.example else null;
  })
  (
    lib.filter (option: option.visible && !option.internal) (
      lib.optionAttrSetToDocList options.services.mcp-oauth-gateway
    )
  )
