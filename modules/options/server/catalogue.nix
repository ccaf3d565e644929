# Well-known MCP servers, each with the sandbox that it needs. The packages are those of nixpkgs, if it has them.
{
  config,
  gatewayLib,
  lib,
  name,
  pkgs,
  ...
}:
let
  exe = package: [ (lib.getExe package) ];
  # Node.js compiles at run time.
  node = {
    sandbox.relaxations = lib.mkDefault [ "jit" ];
  };
  packaged = file: pkgs.callPackage file { };

  # For users: a sentence without what only operators need to know.
  describe =
    summary:
    let
      what = lib.removeSuffix "." (lib.head (lib.splitString ";" summary));
    in
    "${lib.toUpper (lib.substring 0 1 what)}${lib.substring 1 (-1) what}.";

  complete =
    entry:
    entry
    // {
      command = lib.mkDefault entry.command;
      description = lib.mkDefault (describe entry.summary);
    };

  catalogue = lib.mapAttrs (_: complete) {
    time = {
      summary = "the time, and conversions between time zones.";
      command = exe pkgs.mcp-server-time ++ [ "--local-timezone=UTC" ];
    };

    fetch = {
      summary = "fetches web pages, from public addresses only.";
      command = exe pkgs.mcp-server-fetch;
      sandbox.network = lib.mkDefault "internet";
    };

    git = {
      summary = "reads and changes Git repositories; name one with `arguments = [ \"--repository\" \"/srv/repository\" ]`.";
      command = exe pkgs.mcp-server-git;
      path = lib.mkDefault [ pkgs.git ];
      # Git refuses repositories of other users, and here every repository belongs to another user.
      environment = {
        GIT_CONFIG_COUNT = lib.mkDefault "1";
        GIT_CONFIG_KEY_0 = lib.mkDefault "safe.directory";
        GIT_CONFIG_VALUE_0 = lib.mkDefault "*";
      };
    };

    memory = node // {
      summary = "a knowledge graph that outlives the conversation: one for all users, or one for each with `stateDirectory = \"per-user\"`.";
      command = exe pkgs.mcp-server-memory;
      stateDirectory = lib.mkDefault true;
      environment.MEMORY_FILE_PATH = lib.mkDefault "/var/lib/${gatewayLib.units.stateOf name config}/memory.jsonl";
    };

    filesystem = node // {
      summary = "files below some directories; name them with `arguments = [ \"/srv/documents\" ]`.";
      command = exe pkgs.mcp-server-filesystem;
    };

    sequential-thinking = node // {
      summary = "a scratch pad for thinking in steps.";
      command = exe pkgs.mcp-server-sequential-thinking;
    };

    everything = node // {
      summary = "every feature of the protocol, to test clients with.";
      command = exe (packaged ../../../nix/packages/mcp-server-everything);
    };

    playwright = {
      summary = "a browser, which reaches public addresses only.";
      # The browser's own sandbox does not work inside of this one, which holds the whole browser.
      command = exe pkgs.playwright-mcp ++ [
        "--headless"
        "--isolated"
        "--no-sandbox"
      ];
      sandbox = {
        network = lib.mkDefault "internet";
        relaxations = lib.mkDefault [
          "jit"
          "proc"
          "capabilities"
        ];
      };
    };

    tmux = {
      summary = "terminal sessions, which all its users share; commands run inside this sandbox.";
      command = exe (packaged ../../../nix/packages/tmux-mcp.nix);
      path = lib.mkDefault [
        pkgs.tmux
        pkgs.bashInteractive
      ];
      environment.SHELL = lib.mkDefault "/bin/sh";
    };
  };
in
{
  options.preset = lib.mkOption {
    type = lib.types.nullOr (lib.types.enum (lib.attrNames catalogue));
    default = if catalogue ? ${name} then name else null;
    defaultText = lib.literalMD "the server's name, if the catalogue has that";
    example = "filesystem";
    description = ''
      Entry of the catalogue that sets command, environment and sandbox. You can override each of them.

      ${lib.concatStringsSep "\n" (
        lib.mapAttrsToList (entry: { summary, ... }: "- `${entry}`: ${summary}") catalogue
      )}
    '';
  };

  config = lib.mkMerge (
    lib.mapAttrsToList (
      entry: preset:
      lib.mkIf (config.preset == entry && config.url == null) (removeAttrs preset [ "summary" ])
    ) catalogue
  );
}
