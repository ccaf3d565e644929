# The reference server that shows every feature of the protocol, as npm has it: nixpkgs packages its siblings only.
{
  buildNpmPackage,
  importNpmLock,
  lib,
  nodejs,
  makeWrapper,
}:
let
  manifest = lib.importJSON ./package.json;
in
buildNpmPackage {
  pname = manifest.name;
  inherit (manifest) version;

  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./package.json
      ./package-lock.json
    ];
  };

  # The lock file has the hash of every package.
  npmDeps = importNpmLock { npmRoot = ./.; };
  inherit (importNpmLock) npmConfigHook;

  nativeBuildInputs = [ makeWrapper ];
  dontNpmBuild = true;

  postInstall = ''
    makeWrapper ${lib.getExe nodejs} $out/bin/mcp-server-everything --add-flags \
      $out/lib/node_modules/${manifest.name}/node_modules/@modelcontextprotocol/server-everything/dist/index.js
  '';

  meta = {
    description = "MCP server that exercises every feature of the protocol";
    homepage = "https://github.com/modelcontextprotocol/servers";
    license = lib.licenses.mit;
    mainProgram = "mcp-server-everything";
    platforms = lib.platforms.linux;
  };
}
