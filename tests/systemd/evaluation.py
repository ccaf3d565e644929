"""Every configuration whose evaluation is committed, for machines without Nix; `make evaluate` writes them anew."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
OPTIONS_PAGE = CHECKOUT / "docs/options.md"
COMPLAINTS = ("mistakes",)
"""Cases of which only what the operator is told matters; each file has several."""

_HEAD = """\
# Options

Every option of the NixOS module. This page is made from `modules/`: change it there, then run `make evaluate`.
"""


def cases() -> dict[str, Path]:
    """Return the configurations by name: the scenarios of tests/nixos, and those that are only evaluated."""
    return {path.stem: path for folder in (HERE.parent / "nixos", HERE / "cases") for path in folder.glob("*.nix")}


def can_evaluate() -> bool:
    """Whether Nix and nixpkgs' library are at hand."""
    if shutil.which("nix-instantiate") is None:
        return False
    command = ("nix-instantiate", "--eval", "-E", "(import <nixpkgs/lib>).version")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def evaluate(path: Path) -> dict[str, object]:
    """Evaluate a case; raises RuntimeError with Nix's message."""
    document = (
        _instantiate(HERE / "complaints.nix", "--arg", "configurations", str(path))
        if path.stem in COMPLAINTS
        else _instantiate(HERE / "evaluate.nix", "--arg", "configuration", str(path))
    )
    assert isinstance(document, dict)
    return document


def evaluate_options() -> list[dict[str, object]]:
    """Return every option as nix/options-doc.nix has it."""
    document = _instantiate(HERE / "options.nix", "--arg", "lib", "import <nixpkgs/lib>")
    assert isinstance(document, list)
    return document


def evaluate_flake(**versions: str) -> dict[str, Any]:
    """Return what the flake's outputs come to, on a nixpkgs that has these versions of packages."""
    packages = [part for name, version in versions.items() for part in ("--argstr", name, version)]
    document = _instantiate(HERE / "flake_outputs.nix", "--arg", "lib", "import <nixpkgs/lib>", *packages)
    assert isinstance(document, dict)
    return document


def evaluated(name: str) -> Path:
    """Return where the result of a case is committed."""
    return HERE / "evaluated" / f"{name}.json"


def render(document: object) -> str:
    """Return JSON as it is committed."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def render_options(options: Iterable[dict[str, object]]) -> str:
    """Return docs/options.md."""
    return "\n".join([_HEAD, *map(_section, sorted(options, key=lambda option: str(option["name"])))])


def _section(option: dict[str, object]) -> str:
    def plain(text: object) -> str:
        # NixOS' manual shows by these what a word is; other readers of Markdown do not know them.
        return re.sub(r"\{(?:file|manpage|option)\}(?=`)", "", str(text))

    lines = [f"## `{option['name']}`", "", plain(option["description"]), "", f"*Type:* {option['type']}"]
    if option["readOnly"]:
        lines += ["(read only)"]
    for label in ("default", "example"):
        value = option[label]
        if not isinstance(value, dict):
            continue
        text, title = str(value["text"]).rstrip("\n"), f"*{label.capitalize()}:*"
        if not value["isCode"]:
            lines += ["", f"{title} {plain(text)}"]
        elif "\n" in text:
            lines += ["", title, "", "```nix", text, "```"]
        else:
            lines += ["", f"{title} `{text}`"]
    return "\n".join(lines) + "\n"


def _instantiate(expression: Path, *arguments: str) -> object:
    command = ("nix-instantiate", "--eval", "--strict", "--json", str(expression), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Write every committed result anew."""
    for name, path in cases().items():
        evaluated(name).write_text(render(evaluate(path)))
    OPTIONS_PAGE.write_text(render_options(evaluate_options()))


if __name__ == "__main__":
    main()
