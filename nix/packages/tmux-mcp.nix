# Terminal sessions for MCP clients: not in nixpkgs.
{
  fetchPypi,
  lib,
  python3Packages,
}:
python3Packages.buildPythonApplication rec {
  pname = "tmux-mcp";
  version = "0.3.3";
  pyproject = true;

  src = fetchPypi {
    pname = "tmux_mcp";
    inherit version;
    hash = "sha256-kbsa2bMnRnSNvBgs6EC2QW0wysL2O5l3jDmIgVM6TXg=";
  };

  # Written for version 1 of the MCP package: the name has changed since, and so have settings of its HTTP server only.
  postPatch = ''
    sed --in-place src/tmux_mcp/server.py \
      --expression='/mcp\.settings\.\(host\|port\) =/d' \
      --expression='s/^from mcp\.server\.fastmcp import FastMCP$/try:\n    &\nexcept ImportError:\n    from mcp.server.mcpserver import MCPServer as FastMCP/'
  '';

  build-system = [ python3Packages.hatchling ];
  dependencies = [ python3Packages.mcp ] ++ python3Packages.mcp.optional-dependencies.cli;

  pythonImportsCheck = [ "tmux_mcp" ];

  meta = {
    description = "MCP server that controls tmux sessions";
    homepage = "https://github.com/WENLIXIAO-CS/tmux-mcp";
    license = lib.licenses.mit;
    mainProgram = "tmux-mcp";
    platforms = lib.platforms.linux;
  };
}
