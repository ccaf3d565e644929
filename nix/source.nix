# The given files and folders of this checkout, and nothing else of it.
{ lib }:
files:
lib.fileset.toSource {
  root = ../.;
  fileset = lib.fileset.unions files;
}
