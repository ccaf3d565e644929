"""`mcp-gatewayctl doctor`, `health` and `stats`."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from auth_service.backends import health as handshakes
from auth_service.backends.assertions import derive_identity_key
from auth_service.settings import SettingsError, load_identity_key, load_settings

from .doctor.examination import examine
from .doctor.findings import Finding, Status
from .operator import Operator, as_json, load_derivable, master_key_option, settings_option, with_operator
from .output import print_json, print_record

_COLORS = {Status.OK: "green", Status.WARNING: "yellow", Status.PROBLEM: "red"}


@click.command(short_help="Find what keeps clients out.")
@with_operator
@as_json
@click.pass_context
def doctor(context: click.Context, operator: Operator, *, as_json: bool) -> None:
    """Find what keeps clients out, and say what to do.

    It checks the gateway on this host and as clients reach it, and makes one request to each server with a token that
    lives a minute. The exit status is 1 if there is a problem.
    """
    found: list[Finding] = []
    parts = operator.parts
    findings = examine(parts.settings, parts.credentials, parts.store, operator.revocation, operator.signing_keys)
    for finding in findings:
        found.append(finding)
        if not as_json:
            _print_finding(finding)
    if as_json:
        print_json([asdict(finding) for finding in found])
    context.exit(int(any(finding.status is Status.PROBLEM for finding in found)))


def _print_finding(finding: Finding) -> None:
    status = click.style(f"{finding.status:8}", fg=_COLORS[finding.status])
    click.echo(f"{status} {finding.check}: {finding.text}")
    if finding.advice is not None:
        click.echo(f"         → {finding.advice}")


@click.command(short_help="Check each server as a client would.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--metrics-file", type=click.Path(path_type=Path), metavar="FILE", help="Also write the results for Prometheus."
)
@click.option(
    "--identity-keys",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The directory with each server's key as identity-NAME, instead of the master key.",
)
@click.option(
    "--max-age",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Accept what a bridge knows of its server if it is not older, instead of opening a session.",
)
@settings_option
@master_key_option
@as_json
@click.pass_context
def health(
    context: click.Context,
    *,
    names: tuple[str, ...],
    settings_file: Path,
    master_key: Path,
    identity_keys: Path | None,
    max_age: float | None,
    metrics_file: Path | None,
    as_json: bool,
) -> None:
    """Open a session at each server, or at the named ones, as a client would, and say whether it answers."""
    loaded = load_settings(settings_file)
    for name in names:
        if name not in loaded.resources:
            raise SettingsError(f"{name}: is not in {settings_file}")
    chosen = names or tuple(loaded.resources)
    if identity_keys is not None:
        keys = {name: load_identity_key(identity_keys / f"identity-{name}") for name in chosen}
    else:
        credentials = load_derivable(master_key)
        keys = {name: derive_identity_key(credentials, name) for name in chosen}
    width = max(map(len, chosen))
    results = []
    for each in handshakes.check_each(loaded, keys, max_age=max_age):
        results.append(each)
        if not as_json:
            click.echo(f"{each.name:{width}}  {each.endpoint}  {_describe(each)}")
    results.sort(key=lambda each: chosen.index(each.name))
    if metrics_file is not None:
        unfinished = metrics_file.with_suffix(".new")
        unfinished.write_text(handshakes.render_metrics(results, now=time.time()))
        unfinished.replace(metrics_file)
    if as_json:
        print_json([asdict(each) for each in results])
    context.exit(int(any(each.problem for each in results)))


def _describe(result: handshakes.Result) -> str:
    if result.problem is not None:
        return result.problem
    if result.asleep:
        return "asleep, as nobody uses it"
    if result.answered_ago is not None:
        return f"answered {result.answered_ago:.0f} s ago"
    return f"answers, {result.seconds:.2f} s"


@click.command()
@with_operator
@as_json
def stats(operator: Operator, *, as_json: bool) -> None:
    """Count clients, users and grants."""
    since = time.time() - 86400
    per_server: Counter[str] = Counter()
    clients: set[str] = set()
    users: set[str] = set()
    used_today = 0
    for each in operator.store.queries.grants():
        per_server[operator.resource_name(each.grant.resource)] += 1
        clients.add(each.grant.client_id)
        users.add(each.grant.sub)
        used_today += (each.last_used or each.grant.created_at) > since
    info = operator.store.redis.info("memory")
    figures = {
        "registered_clients": sum(1 for _ in operator.store.queries.clients()),
        "clients_with_grants": len(clients),
        "users": len(users),
        "grants": per_server.total(),
        "grants_per_server": {name: per_server[name] for name in [*operator.settings.resources, *per_server]},
        "used_today": used_today,
        "redis_bytes": int(info["used_memory"]),
    }
    if as_json:
        print_json(figures)
        return
    servers = [f"{name} {count}" for name, count in per_server.items()]
    print_record({**figures, "grants_per_server": servers}, as_json=False)
