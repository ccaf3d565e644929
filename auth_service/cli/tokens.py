"""`mcp-gatewayctl token`."""

from __future__ import annotations

import re
import time

import click

from auth_service.idp import provider_name
from auth_service.keys.access_tokens import issue_for_grant
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.storage.grants import Grant, new_sid

from .operator import BY, FOR_NO_USER, Operator, as_json, parse_lifetime, with_operator
from .output import print_json, timestamp

CLIENT_ID = "mcp-gatewayctl"
_SUBJECT = re.compile(r"[a-z0-9-]{1,32}:[!-~]{1,200}")


@click.group()
def token() -> None:
    """Tokens for programs that cannot log in."""


@token.command()
@click.option(
    "--user", required=True, help="The user that the program acts for, by id (github:583231), or headless:NAME."
)
@click.option("--name", help="The user's name in lists and logs; by default the id.")
@click.option("--server", required=True, help="The server that the token is for, by name or URL.")
@click.option("--scope", "scopes", multiple=True, help="A scope of that server; repeatable. By default all.")
@click.option("--lifetime", callback=parse_lifetime, default="1d", show_default=True, help="3600, 90m, 12h, 30d.")
@click.option("--label", default="issued by the operator", show_default=True, help="What it is for.")
@with_operator
@as_json
def issue(
    operator: Operator,
    *,
    user: str,
    name: str | None,
    server: str,
    scopes: tuple[str, ...],
    lifetime: int,
    label: str,
    as_json: bool,
) -> None:
    """Print a new access token.

    It has a grant like any other: `grants list` shows it, `grants revoke` ends it, and the audit log has its events.
    Allow-lists do not apply, neither those of servers nor those of scopes. It cannot be refreshed.
    """
    if not _SUBJECT.fullmatch(user):
        raise click.UsageError(f"{user}: is no user id: write PROVIDER:ID, such as github:583231, or headless:NAME")
    url = operator.resource_url(server)
    supported = operator.settings.resources[operator.resource_name(url)].scopes
    _refuse_where_users_give_credentials(operator, user, operator.resource_name(url))
    if unknown := [scope for scope in scopes if scope not in supported]:
        raise click.UsageError(f"{unknown[0]}: no scope of that server; its scopes: {', '.join(supported)}")
    now = int(time.time())
    grant = Grant(
        sid=new_sid(),
        sub=user,
        name=name or user,
        client_id=CLIENT_ID,
        client_name=label,
        resource=url,
        scope=" ".join(scopes or supported),
        redirect="",
        created_at=now,
    )
    operator.open_audit_log()
    access_token = issue_for_grant(
        operator.signing_keys, grant, issuer=operator.settings.issuer, lifetime=lifetime, now=now
    )
    operator.store.grants.add(grant, lifetime=lifetime)
    audit.record(Event.TOKEN_ISSUED, of=grant, scope=grant.scope, by=BY, reason=label)
    if as_json:
        members = {"access_token": access_token, "grant": grant.sid, "resource": url, "scope": grant.scope}
        print_json({**members, "expires_at": timestamp(now + lifetime)})
    else:
        click.echo(access_token)


def _refuse_where_users_give_credentials(operator: Operator, user: str, server: str) -> None:
    """Refuse a token with which no process would ever start, as its user cannot log in and give what the server needs.

    Raises click.UsageError.
    """
    wanted = operator.settings.resources[server].user_credentials
    provider = provider_name(operator.settings.identity_provider)
    if wanted and not user.startswith((f"{provider}:", f"{provider}#")):
        raise click.UsageError(
            f"{user}: cannot use {server}, which needs {', '.join(wanted)} of each user. Only users who can log in "
            f"give that, at {operator.settings.issuer}/account: name one of them ({provider}…). {FOR_NO_USER}"
        )
