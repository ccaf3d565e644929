"""How commands print their results: as a table for people, or as JSON for programs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from auth_service.ops.logs import escape

MAX_SORTED: Final = 10_000
"""How many records are sorted. More are printed in the order in which Redis finds them."""
_PAGE: Final = 1000

T = TypeVar("T")


def print_json(document: Any) -> None:
    """Print a document as JSON."""
    click.echo(json.dumps(document, indent=2))


def oldest_first(found: Iterator[T], age: Callable[[T], int]) -> Iterator[T]:
    """Sort the records, unless there are too many for memory: then yield them in the order found."""
    held = list(itertools.islice(found, MAX_SORTED + 1))
    if len(held) <= MAX_SORTED:
        held.sort(key=age)
    return itertools.chain(held, found)


def print_records(records: Iterable[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """Print records one by one as JSON, or as a table; `columns` maps members to headings."""
    remaining = iter(records)
    pages = iter(lambda: list(itertools.islice(remaining, _PAGE)), [])
    if as_json:
        _print_list(pages)
    else:
        _print_table(pages, columns)


def _print_list(pages: Iterable[list[Mapping[str, Any]]]) -> None:
    separator = "["
    for page in pages:
        click.echo(separator + "\n  " + ",\n  ".join(map(json.dumps, page)), nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def _print_table(pages: Iterable[list[Mapping[str, Any]]], columns: Mapping[str, str]) -> None:
    """Print the pages of a table. A column is as wide as its widest cell so far: later cells are not known yet."""
    headings = [list(columns.values())]
    widths = [0] * len(columns)
    for page in pages:
        rows = [*headings, *([_cell(record[member]) for member in columns] for record in page)]
        headings = []
        widths = [max(width, *map(len, cells)) for width, cells in zip(widths, zip(*rows, strict=True), strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        click.echo("\n".join(lines))
    if headings:
        click.echo("none")


def print_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one record with all its members."""
    if as_json:
        print_json(record)
        return
    width = max(len(member) for member in record)
    for member, value in record.items():
        click.echo(f"{member.replace('_', ' '):{width}}  {_cell(value)}".rstrip())


def timestamp(seconds: float | None) -> str | None:
    """Return a time as ISO 8601, in UTC, to the second."""
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def _cell(value: Any) -> str:
    """Return a value as the text of a cell, without control characters that a client or user may have chosen."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_cell(each) for each in value) or "-"
    return escape(str(value))
