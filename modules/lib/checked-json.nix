# A JSON file that its program checks: a mistake fails the build, not the start of the program.
{ lib, pkgs }:
{
  name,
  value,
  # A command that takes the file as its last argument; null if the program does not run on this host.
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
