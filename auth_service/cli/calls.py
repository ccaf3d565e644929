"""`mcp-gatewayctl calls`: the records of calls that the bridges of this host have written (docs/calls.md)."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from auth_service.ops.logs import escape

from .operator import parse_duration

NAMESPACE: Final = "mcp-gateway-calls"
IDENTIFIER: Final = "mcp-call"
OUTCOMES: Final = (
    "ok",
    "tool_error",
    "error",
    "denied",
    "over_quota",
    "cancelled",
    "timeout",
    "server_exit",
    "client_gone",
)
Record = dict[str, Any]

# Local users can write to a journal, but not in the name of another unit.
_UNIT: Final = re.compile(r"mcp-bridge-.+\.service")
_DEFAULT_SINCE: Final = timedelta(days=1)
_COLUMNS: Final = {"time": 24, "server": 12, "login": 16, "name": 28, "outcome": 11, "milliseconds": 12, "client": 0}
_HEADINGS: Final = {"name": "tool or method", "login": "user", "milliseconds": "ms"}


def _parse_time(_context: click.Context | None, _option: click.Parameter | None, value: str | None) -> datetime | None:
    """Read a time: so long ago (`30m`, `2h`, `7d`), or a date and a time in UTC. Raises click.BadParameter."""
    if value is None:
        return None
    try:
        if (ago := parse_duration(value)) is not None:
            return datetime.now(UTC) - timedelta(seconds=ago)
        read = datetime.fromisoformat(value)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value!r} is neither like 30m, 2h or 7d nor like 2026-11-24 or 2026-11-24T08:30"
        ) from error
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which records to show. An empty choice is every value."""

    users: frozenset[str]
    servers: frozenset[str]
    tools: frozenset[str]
    outcomes: frozenset[str]
    since: datetime
    until: datetime | None

    def admits(self, record: Record) -> bool:
        """Whether to show a record."""
        if self.users and not self.users & {record.get("user"), record.get("login")}:
            return False
        if self.servers and record.get("server") not in self.servers:
            return False
        if self.tools and record.get("tool") not in self.tools:
            return False
        if self.outcomes and record.get("outcome") not in self.outcomes:
            return False
        ended = _time_of(record)
        return ended is not None and ended >= self.since and (self.until is None or ended <= self.until)


@click.command()
@click.option("--user", "users", multiple=True, help="Calls of this user only: an id, or a login name. Repeatable.")
@click.option("--server", "servers", multiple=True, help="Calls to the server of this name only. Repeatable.")
@click.option("--tool", "tools", multiple=True, help="Calls of this tool only. Repeatable.")
@click.option(
    "--outcome", "outcomes", multiple=True, type=click.Choice(OUTCOMES), help="Calls that ended so. Repeatable."
)
@click.option(
    "--since",
    callback=_parse_time,
    metavar="TIME",
    help="Calls that ended at or after: 30m, 2h, 7d ago, or a date and time in UTC; 1d ago if not given.",
)
@click.option("--until", callback=_parse_time, metavar="TIME", help="Calls that ended at or before.")
@click.option("--follow", is_flag=True, help="Go on with calls as they end. Without --since, only with these.")
@click.option("--top", is_flag=True, help="A summary by server, user, tool and outcome, the most frequent first.")
@click.option("--json", "as_json", is_flag=True, help="Print each record, or each row of --top, as a line of JSON.")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Read this file of a bridge's --call-records in place of the journal. Repeatable.",
)
def calls(
    *,
    users: Sequence[str],
    servers: Sequence[str],
    tools: Sequence[str],
    outcomes: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    follow: bool,
    top: bool,
    as_json: bool,
    files: Sequence[Path],
) -> None:
    """Show who called what, and how that ended: the calls that ended on this host.

    Each host that runs bridges has the records of its own.
    """
    if follow and (top or until is not None):
        raise click.UsageError("--follow has no end: leave out --top and --until")
    if since is None:
        since = datetime.now(UTC) - (timedelta() if follow else _DEFAULT_SINCE)
    chosen = Filter(
        users=frozenset(users),
        servers=frozenset(servers),
        tools=frozenset(tools),
        outcomes=frozenset(outcomes),
        since=since,
        until=until,
    )
    with contextlib.closing(_read(files, since=since, follow=follow)) as found:
        records = (record for record in found if chosen.admits(record))
        if top:
            _print_rows(_summary(records), as_json=as_json)
        elif as_json:
            for record in records:
                click.echo(json.dumps(record))
        else:
            _print_table(records)
    if not as_json and not files:
        click.echo(f"the calls of this host, {socket.gethostname()}", err=True)


def _read(files: Sequence[Path], *, since: datetime, follow: bool) -> Generator[Record]:
    """Yield records, the oldest first. Raises click.ClickException if a program that reads them is missing or fails."""
    if files and follow:
        yield from _records(_lines_of("tail", ["--lines=+1", "--follow=name", "--quiet", "--", *map(str, files)]))
        return
    if files:
        for path in files:
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from _records(file)
        return
    arguments = [
        f"--namespace={NAMESPACE}",
        f"--identifier={IDENTIFIER}",
        "--output=json",
        "--output-fields=MESSAGE,_SYSTEMD_UNIT",
        "--all",
        "--quiet",
        "--no-pager",
        f"--since=@{since.timestamp():.6f}",
        *(["--follow"] if follow else []),
    ]
    yield from _records(
        str(entry.get("MESSAGE"))
        for entry in _objects(_lines_of("journalctl", arguments))
        if _UNIT.fullmatch(str(entry.get("_SYSTEMD_UNIT")))
    )


def _lines_of(program: str, arguments: Sequence[str]) -> Iterator[str]:
    found = shutil.which(program)
    if found is None:
        raise click.ClickException(
            f"{program}: there is no such program. Without a journal, a bridge writes records to a file "
            "(--call-records FILE): name it by --file."
        )
    # What it complains of goes to standard error as it is.
    with subprocess.Popen([found, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as reader:  # noqa: S603 - a program of the system
        try:
            yield from reader.stdout or ()
        except BaseException:
            reader.terminate()
            raise
    if reader.returncode:
        raise click.ClickException(f"{program} has failed: see that this user may read the journal, or try as root")


def _objects(lines: Iterable[str]) -> Iterator[Record]:
    """Yield those lines that are JSON objects: a line may be cut where a disk was full."""
    for line in lines:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def _records(lines: Iterable[str]) -> Iterator[Record]:
    return (record for record in _objects(lines) if {"time", "server", "method", "outcome"} <= record.keys())


def _time_of(record: Record) -> datetime | None:
    try:
        return datetime.fromisoformat(str(record["time"]))
    except ValueError:
        return None


def _name_of(record: Record) -> str:
    return str(next((record[member] for member in ("tool", "prompt", "uri") if member in record), record["method"]))


def _print_table(records: Iterable[Record]) -> None:
    """Print records as they come: a column has a fixed width, and a longer cell moves the rest of its row."""
    click.echo(_row({column: _HEADINGS.get(column, column) for column in _COLUMNS}))
    for record in records:
        milliseconds = record.get("milliseconds")
        cells = {
            **record,
            "login": record.get("login", record.get("user", "-")),
            "name": _name_of(record),
            "milliseconds": f"{milliseconds:.1f}" if isinstance(milliseconds, int | float) else "-",
        }
        click.echo(_row(cells))


def _row(cells: Record) -> str:
    return "  ".join(escape(str(cells.get(column, "-"))).ljust(width) for column, width in _COLUMNS.items()).rstrip()


def _summary(records: Iterable[Record]) -> list[Record]:
    """Return a row for each server, user, tool and outcome, with how many calls there were and how long they took."""
    durations: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        milliseconds = record.get("milliseconds")
        key = record["server"], record.get("login", record.get("user", "-")), _name_of(record), record["outcome"]
        durations.setdefault(tuple(map(str, key)), []).append(
            float(milliseconds) if isinstance(milliseconds, int | float) else 0.0
        )
    rows = sorted(durations.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            **dict(zip(("server", "user", "tool", "outcome"), key, strict=True)),
            "calls": len(found),
            "p50_ms": _quantile(found, 0.5),
            "p95_ms": _quantile(found, 0.95),
        }
        for key, found in rows
    ]


def _quantile(values: list[float], part: float) -> float:
    """Return the smallest value that at least this part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]


def _print_rows(rows: Sequence[Record], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    columns = ("server", "user", "tool", "outcome", "calls", "p50_ms", "p95_ms")
    table = [list(columns), *([escape(str(row[column])) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for cells in table:
        click.echo("  ".join(map(str.ljust, cells, widths)).rstrip())
