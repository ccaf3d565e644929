"""The home page, and the page for people who open a server's URL in a browser: how to connect a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import Response, abort

from auth_service.app.composition import Parts
from auth_service.app.verify.protected_resource import challenge_without_token
from auth_service.protocol.client_programs import ClientProgram, programs_that_reach
from auth_service.protocol.display import DisplayName, display_name, display_text
from auth_service.settings import Resource

from . import Endpoints
from .account import HOME_FIELD, form_token
from .browser import find_session, keep_browser
from .credential_fields import Field, HeldCredential, credential_id, describe, find_held
from .pages import provider_targets, render_page

blueprint = Endpoints("home", __name__)
visits = Endpoints("visits", __name__)
"""Requests of browsers at the URLs of servers, which Traefik sends here (`app/traefik/routers.py`)."""

_NETWORKS = {
    "none": "sandboxed, no network",
    "domains": "sandboxed, listed domains only",
    "internet": "sandboxed, internet only",
    "full": "sandboxed, whole network",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """How to add one server to one client."""

    program: ClientProgram
    lines: list[str]
    link: str | None


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What a server needs from a user, and what is kept of it."""

    field: Field
    held: HeldCredential | None


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as the pages show it."""

    name: str
    title: DisplayName
    description: str
    url: str
    network: str | None
    panels: list[Panel]
    credentials: list[Credential]
    """What the server needs from the user who is signed in."""


@blueprint.get("/")
def show(parts: Parts) -> Response:
    """Show what this gateway is, and the servers that the visitor may know of."""
    session = find_session(parts)
    usable: list[str] | None = None
    if session is not None:
        usable = parts.user_access.find_usable_when_signed_in(session.sub, session.name)
    elif parts.settings.home_page.public:
        usable = list(parts.settings.resources)
    shown = usable or []
    held = {each.id: each for each in find_held(parts, session.sub, shown)} if session is not None else {}
    servers = [
        _server(
            name,
            parts.settings.resources[name],
            credentials=_credentials(parts, name, held) if session is not None else (),
        )
        for name in shown
    ]
    response = render_page(
        parts,
        "home.html",
        form_targets=provider_targets(parts) if usable is None or session is None else (),
        action=f"{parts.settings.issuer}/account",
        form_token=form_token(parts, session),
        home_field=HOME_FIELD,
        user=display_text(session.name) if session is not None else "",
        is_signed_in=session is not None,
        is_known=usable is not None,
        servers=servers,
        # Visitors learn nothing of the servers' states, and cannot make the gateway ask for them.
        states=parts.server_states.find(usable) if session is not None and usable else {},
        provider=parts.provider.title,
    )
    keep_browser(parts, response)
    return response


@visits.get("/visits/<name>/<status>")
def visit(parts: Parts, name: str, status: str) -> Response:
    """Show how to connect a client to the server whose URL (401) or host (200) was opened.

    The page says nothing of the server but its URL, which the visitor knows. The URL's answer keeps the challenge that
    clients get.
    """
    resource = parts.settings.resources.get(name)
    if resource is None or status not in {"200", "401"}:
        abort(404)
    response = render_page(parts, "server.html", status=int(status), server=_server(name, resource))
    if status == "401":
        response.headers["WWW-Authenticate"] = challenge_without_token(resource)
        response.vary.add("Accept")
    return response


def _credentials(parts: Parts, name: str, held: Mapping[str, HeldCredential]) -> list[Credential]:
    return [
        Credential(field=describe(parts, name, variable), held=held.get(credential_id(name, variable)))
        for variable in parts.settings.resources[name].user_credentials
    ]


def _server(name: str, resource: Resource, *, credentials: Sequence[Credential] = ()) -> Server:
    return Server(
        name=name,
        title=display_name(resource.title or name),
        description=resource.description or "",
        url=resource.url,
        credentials=list(credentials),
        network=_NETWORKS.get(resource.network or ""),
        panels=[
            Panel(
                program=program,
                lines=program.lines(name, resource.url),
                link=program.link(name, resource.url) if program.link is not None else None,
            )
            for program in programs_that_reach(resource.url)
        ],
    )
