"""Refusals that have an HTTP status but no error of OAuth, by Traefik, the ASGI layer or Flask.

The answer always has the form of its endpoint.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Response, jsonify, make_response, request

from auth_service.app.composition import Parts
from auth_service.app.responses import json_rpc_error
from auth_service.protocol.errors import RETRY_SECONDS, PageError
from auth_service.protocol.parameters import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_URL_BYTES

from . import allow_any_origin, forbid_storing
from .pages import render_page, wants_page


class Form(Enum):
    """The form of an endpoint's answers."""

    PAGE = "page"
    OAUTH = "oauth"
    JSON_RPC = "json-rpc"


def respond(
    parts: Parts,
    status: int,
    *,
    form: Form | None = None,
    retry_after: int | None = None,
    allowed: tuple[str, ...] = (),
    text: str | None = None,
) -> Response:
    """Return the answer for a status; without `form`, in the form of the requested endpoint.

    `allowed` are the methods of the endpoint; `text` replaces the status's own text.
    """
    if form is None:
        form = Form.PAGE if wants_page() else Form.OAUTH
    if retry_after is None and status in _PASSING:
        retry_after = RETRY_SECONDS
    text = text or _explain(parts, status, retry_after=retry_after, allowed=allowed)
    if form is Form.PAGE:
        error = PageError(_TITLES.get(status, "This request was refused"), f"{text[:1].upper()}{text[1:]}.")
        response = render_page(parts, "error.html", status=status, error=error)
    elif form is Form.JSON_RPC:
        response = make_response(json_rpc_error(status, text), status, {"Content-Type": "application/json"})
    else:
        response = make_response(jsonify(error=_code(status), error_description=text), status)
    if form is not Form.PAGE:
        allow_any_origin(forbid_storing(response))
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    if allowed:
        response.headers["Allow"] = ", ".join(allowed)
    if status == HTTPStatus.REQUEST_TIMEOUT:
        response.headers["Connection"] = "close"
    return response


_PASSING = frozenset({502, 503, 504})
_TITLES = {
    404: "There is no such page here",
    413: "This form is too large",
    414: "This link is too long",
    421: "This gateway has another name",
    429: "Too many requests came from here",
    431: "Your browser sent too much",
    500: "Something went wrong here",
    502: "The gateway cannot answer right now",
    503: "The gateway cannot answer right now",
    504: "The gateway cannot answer right now",
}


def _code(status: int) -> str:
    """Return the error code of a status. OAuth has none for 429: `slow_down` (RFC 8628 §3.5) means the same."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "slow_down"
    if status in _PASSING:
        return "temporarily_unavailable"
    return "invalid_request" if status < 500 else "server_error"


def _explain(parts: Parts, status: int, *, retry_after: int | None, allowed: tuple[str, ...]) -> str:
    """Return what is wrong and what to do, in the characters that `error_description` allows."""
    methods = " or ".join(method for method in allowed if method != "OPTIONS")
    issuer = urlsplit(parts.settings.issuer)
    metadata = f"{issuer.geturl()}/.well-known/oauth-authorization-server"
    again = f"try again in {retry_after} second{'' if retry_after == 1 else 's'}"
    texts = {
        400: "the request is malformed: percent-encode all characters of its URL that are not ASCII",
        404: f"nothing is at this path; the endpoints are named at {metadata}",
        405: f"{request.method[:16]} is not possible here: use {methods}",
        408: "the body came too slowly: send the request again",
        413: f"the body is larger than {MAX_BODY_BYTES} bytes: send less",
        414: f"the URL is longer than {MAX_URL_BYTES} bytes: send less in it",
        421: f"this gateway is at {issuer.scheme}://{issuer.netloc}: write {issuer.hostname} in the URL",
        429: f"too many requests: {again}",
        431: f"the headers are larger than {MAX_HEADER_BYTES} bytes: send less in them",
        500: "an unexpected error: the operator finds the reason in the log",
        502: f"the server does not answer: {again}",
        503: f"the server, or something that it depends on, does not answer: {again}",
        504: f"the server does not answer: {again}",
    }
    return texts.get(status) or f"the request is not valid here ({HTTPStatus(status).phrase})"
