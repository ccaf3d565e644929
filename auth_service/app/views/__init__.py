"""The HTTP endpoints: they read parameters and answer with pages, redirects and JSON. The layers below decide."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, Response, current_app, g, request
from flask.typing import ResponseReturnValue

from auth_service.app.composition import Parts
from auth_service.ops import audit
from auth_service.ops.audit import AuditedGrant, Event
from auth_service.protocol import addresses, parameters
from auth_service.protocol.errors import OAuthError

# A client's generated identifier or document's URL, or a server's name; a URL without a query.
_FORMS = {
    "client": re.compile(r"mcp_[\w-]{1,40}|https://[^?\s]{1,300}|[a-z0-9-]{1,63}"),
    "resource": re.compile(r"https?://[^?\s]{1,300}"),
}


class Endpoints(Blueprint):
    """A group of endpoints, whose functions are given the parts of the application that serves them."""

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        """As Flask's, which gives a function nothing but what is in the path."""
        given = None if view_func is None else _give_parts(view_func)
        super().add_url_rule(rule, endpoint, given, provide_automatic_options, **options)


def _give_parts(view: Callable[..., ResponseReturnValue]) -> Callable[..., ResponseReturnValue]:
    @functools.wraps(view)
    def call(**from_path: str) -> ResponseReturnValue:
        return view(cast(Parts, current_app.extensions["gateway"]), **from_path)

    return call


def note(**values: str | None) -> None:
    """Note what this request is about, as keyword arguments of `audit.record`, for the events that follow.

    A client or resource is noted only if it has the form of one: a sender may have put a secret in its place.
    """
    known = {
        name: value if value is None or name not in _FORMS or _FORMS[name].fullmatch(value) else "(not of that form)"
        for name, value in values.items()
    }
    g.setdefault("noted", {}).update(known)


def record(event: Event, *, of: AuditedGrant | None = None, **values: str | None) -> None:
    """Write an event to the audit log, with what is noted about this request."""
    # `client_address` says why this header can be believed.
    address = request.headers.get("X-Real-Ip", request.remote_addr)
    audit.record(event, of=of, **{"address": address, **g.get("noted", {}), **values})


def query_parameters() -> dict[str, str]:
    """Return the query's parameters; raises OAuthError if one is repeated."""
    return parameters.parse(request.args.items(multi=True))


def form_parameters() -> dict[str, str]:
    """Return the fields of one of our own forms, without the query's; raises OAuthError if one is repeated."""
    return parameters.parse(request.form.items(multi=True), max_length=parameters.MAX_FORM_TOKEN_LENGTH)


def body_parameters() -> dict[str, str]:
    """Return the parameters of a body that is a form, or a JSON object of strings, which some clients send.

    Only for endpoints to which no browser sends a form. Raises OAuthError for another body or a repeated parameter.
    """
    match request.mimetype:
        case "application/x-www-form-urlencoded" | "multipart/form-data":
            return form_parameters()
        case "application/json":
            return parameters.parse_json(request.get_data())
        case "":
            return parameters.parse_form(request.get_data())
        case other:
            raise OAuthError(
                "invalid_request", f"send the parameters as application/x-www-form-urlencoded, not as {other[:100]}"
            )


def client_address(parts: Parts) -> str:
    """Return the network address by which the request is counted.

    Traefik sets `X-Real-Ip` from the connection, and removes a header of that name from the client. If the settings
    name proxies in front of Traefik, the address is the last one that these saw. If the value is not one address,
    nothing that we trust has set it: then the peer is counted, and all such requests share one count.
    """
    proxies = parts.settings.router.trusted_proxies
    forwarded = request.headers.get("X-Forwarded-For", "") if proxies else ""
    try:
        return addresses.quota_key(addresses.last_outside(forwarded, proxies) or request.headers.get("X-Real-Ip", ""))
    except ValueError:
        return request.remote_addr or ""


def forbid_storing(response: Response) -> Response:
    """Forbid to store an answer that is for one client or one moment."""
    response.headers["Cache-Control"] = "no-store"
    return response


def allow_any_origin(response: Response) -> Response:
    """Let web pages of any origin call an endpoint that uses no cookie."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "GET, POST")
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, MCP-Protocol-Version"
        response.headers["Access-Control-Max-Age"] = "86400"
    return response
