# A JSON file that its program has checked: what it would refuse at its start fails the build.
{ lib, pkgs }:
{
  name,
  value,
  # A command that takes the file as its last argument; null where the file is for another host.
  check,
}:
let
  runsHere = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
in
pkgs.runCommand name
  {
    text = builtins.toJSON value;
    passAsFile = [ "text" ];
  }
  ''
    ${lib.optionalString (check != null && runsHere) "${check} \"$textPath\""}
    cp "$textPath" "$out"
  ''
