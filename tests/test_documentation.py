"""What documents and comments name is there: pages, headings, files, commands, options."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
NOT_OURS = {".cache", ".git", ".local-stack", ".venv", "node_modules"}
CHANGELOG = PROJECT / "CHANGELOG.md"
"""It names files as they were when its entries were written."""


def find_files(*suffixes: str) -> list[Path]:
    """Return the project's own files whose names end so."""
    found = []
    for folder, folders, names in os.walk(PROJECT):
        folders[:] = sorted(set(folders) - NOT_OURS)
        found += [Path(folder) / name for name in sorted(names) if name.endswith(suffixes)]
    return found


PAGES = find_files(".md")
SOURCES = find_files(".py", ".nix", ".lua", ".cjs", ".md", ".toml", ".yml", "Makefile")
ROOTS = sorted(path.name for path in PROJECT.iterdir() if path.is_dir() and path.name not in NOT_OURS)


def without_blocks(text: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", without_blocks(page.read_text()), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        anchor = words.replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def find_dead_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of a page."""
    dead = []
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text()))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'\b(?:src|href)="([^"]+)"', text)
    for target in targets:
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    return dead


def find_missing_paths(page: Path) -> list[str]:
    """Return what a page writes as a path of the project, such as `docs/options.md`, and is none."""
    named = re.findall(rf"`((?:{'|'.join(map(re.escape, ROOTS))})/[\w./-]*)`", page.read_text())
    return [path for path in named if not (PROJECT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert find_dead_links(page) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != CHANGELOG], ids=lambda page: page.name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    assert find_missing_paths(page) == []


def test_a_dead_link_and_a_missing_path_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n## Who *may* use `this`?\n\n[a](#here) [b](#who-may-use-this) [c](gone.md) [d](page.md#gone)\n"
        '<img src="gone.png">\n`docs/gone.md` `docs/options.md` `tests/`\n```\n# Comment\n[e](in-a-block.md)\n```\n'
        "[f](#comment)\n"
    )
    assert find_dead_links(page) == ["gone.md", "page.md#gone", "#comment", "gone.png"]
    assert find_missing_paths(page) == ["docs/gone.md"]


def find_missing_pages(text: str) -> list[str]:
    """Return what a source, or a page, names as a page of docs/ or a heading of one, and is none."""
    missing = []
    # In a comment, a name may go on in the next line.
    for page, heading in re.findall(
        r'\b(docs/\w+\.md)\b(?:, "([^"]+)")?', re.sub(r"\s*\n\s*(?:#|--|//)?\s*", " ", text)
    ):
        file = PROJECT / page
        if not file.exists():
            missing.append(page)
        elif heading and heading not in re.findall(r"^#+ (.+)$", without_blocks(file.read_text()), re.MULTILINE):
            missing.append(f"{page}, {heading}")
    return missing


def test_every_page_and_heading_that_a_source_names_is_there() -> None:
    sources = [source for source in SOURCES if source not in {CHANGELOG, Path(__file__)}]
    missing = {str(source): find_missing_pages(source.read_text()) for source in sources}
    assert {source: pages for source, pages in missing.items() if pages} == {}
    assert find_missing_pages('# See docs/contracts.md,\n# "No such heading", and docs/gone.md') == [
        "docs/contracts.md, No such heading",
        "docs/gone.md",
    ]


def find_missing_modules(source: Path, text: str) -> list[str]:
    """Return what a source names as a module, by a path in the project or in its own package, and is none."""
    package = PROJECT / source.relative_to(PROJECT).parts[0]
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", text)
    return [path for path in named if not any((folder / path).exists() for folder in (PROJECT, package))]


def test_every_module_that_a_source_names_is_there() -> None:
    sources = [source for source in SOURCES if source.suffix == ".py" and source != Path(__file__)]
    missing = {str(source): find_missing_modules(source, source.read_text()) for source in sources}
    assert {source: paths for source, paths in missing.items() if paths} == {}
    text = "`app/gone.py`, `app/flask_app.py`, `stdio_bridge/app.py`, `flask_app.py`, and `auth_service/gone.py`"
    here = PROJECT / "auth_service/app/flask_app.py"
    assert find_missing_modules(here, text) == ["app/gone.py", "auth_service/gone.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_make_target_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z][a-z0-9-]*)", page.read_text(), re.MULTILINE)) <= targets


def test_every_option_that_the_bridges_manual_names_is_there() -> None:
    asked = [sys.executable, "-m", "stdio_bridge", "--help"]
    explained = subprocess.run(asked, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--[a-z][a-z-]+", explained))
    manual = (PROJECT / "docs/bridge.md").read_text()
    commands = "".join(re.findall(r"^mcp-stdio-bridge .*$", manual, re.MULTILINE))
    named = set(re.findall(r"`(--[a-z-]+[a-z])(?![a-z-])", manual)) | set(re.findall(r"(--[a-z-]+[a-z])", commands))
    assert len(named) > 10
    assert named <= known


def test_every_benchmark_that_writes_a_table_has_its_place() -> None:
    written = {
        name
        for path in (PROJECT / "bench").glob("*.py")
        for name in re.findall(r'update_page\("(\w+)"', path.read_text())
    }
    page = (PROJECT / "docs/performance.md").read_text()
    assert written == set(re.findall(r"<!-- bench:(\w+) -->", page)) == set(re.findall(r"<!-- /bench:(\w+) -->", page))
    assert written


GLOSSARY = PROJECT / "docs/glossary.md"


def rows(heading: str) -> list[str]:
    """Return the first cells of the tables below a heading of the glossary."""
    section = GLOSSARY.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]


def test_the_glossary_says_each_word_once() -> None:
    headings = re.findall(r"^## (.+)$", GLOSSARY.read_text(), re.MULTILINE)
    terms = [term for heading in headings[:-1] for cell in rows(heading) for term in cell.split(", ")]
    assert len(terms) > 50
    assert [term for term, times in Counter(terms).items() if times > 1] == []


def find_other_words(text: str) -> list[str]:
    """Return the words of a page, outside of code, that the glossary has others for."""
    words = [word for cell in rows("Not used here") for word in cell.split(", ")]
    prose = re.sub(r"\s+", " ", re.sub(r"`[^`\n]*`", "", without_blocks(text)))
    return [word for word in words if re.search(rf"\b{re.escape(word)}s?\b", prose, re.IGNORECASE)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in {CHANGELOG, GLOSSARY}], ids=lambda page: page.name
)
def test_a_page_uses_the_words_of_the_glossary(page: Path) -> None:
    assert find_other_words(page.read_text()) == []


def test_a_word_that_the_glossary_has_another_for_is_found() -> None:
    assert find_other_words("Calls are parked, and `tickets` are not.\n```\napproval\n```\nNobody's") == [
        "parked",
        "nobody's",
    ]


def test_each_row_of_what_separates_names_tests_that_there_are() -> None:
    table = (PROJECT / "SECURITY.md").read_text().partition("### What separates")[2].partition("\n## ")[0]
    rows_of_tests = [line.rpartition(" | ")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows_of_tests) > 6
    script = (PROJECT / "tests/nixos/sandboxes.py").read_text()
    for cell in rows_of_tests:
        names = re.findall(r"\*([^*]+)\*", cell)
        assert names, cell
        assert [name for name in names if f'{name}"' not in script] == []
