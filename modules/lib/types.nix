{ lib }:
{
  # One setting in a section of a unit. Lists are concatenated, as systemd does with repeated keys; other values must be
  # equal.
  unitSetting = lib.mkOptionType {
    name = "unitSetting";
    description = "systemd setting";
    check =
      value:
      let
        isAtom =
          each:
          lib.isString each || lib.isInt each || lib.isBool each || lib.isPath each || lib.isDerivation each;
      in
      value == null || isAtom value || (lib.isList value && lib.all isAtom value);
    merge =
      location: definitions:
      if lib.any (definition: lib.isList definition.value) definitions then
        lib.concatMap (definition: lib.toList definition.value) definitions
      else
        lib.mergeEqualOption location definitions;
  };
}
