"""Answers with which Traefik replaces its own refusals, which are plain text (`app/traefik/`).

Traefik keeps the status, and asks here for the rest with the headers of the refused request.
"""

from __future__ import annotations

import math
import re

from flask import Response, make_response, request

from auth_service.app.composition import Parts
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.protocol.parameters import MAX_BYTES_KEPT
from auth_service.settings import RateLimit

from . import Endpoints, allow_any_origin, client_address
from .pages import accepts_page
from .statuses import Form, respond

blueprint = Endpoints("router_refusals", __name__)

_FORMS = {"authorization": Form.PAGE, "mcp": Form.JSON_RPC, "by-grant": Form.JSON_RPC}
"""The forms of groups (traefik/middlewares.py); the others have OAuth's."""
_BROWSED = frozenset({"nowhere", "mcp", "by-grant"})
"""Groups whose paths a person may have opened in a browser."""
_RATES = {"nowhere": "metadata", "mcp": "metadata"}
"""Where a group has the rate limit of another."""
_STATUS = re.compile(r"40[0-9]|41[0-8]|42[1-689]|431|50[0-4]")
_KEPT_TEXT = (
    "the body is too large for a request without a session id: send the Mcp-Session-Id of the session, or at most "
    f"{MAX_BYTES_KEPT} bytes"
)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@blueprint.route("/refusals/<group>/<status>", methods=_METHODS)
def refuse(parts: Parts, group: str, status: str) -> Response:
    """Answer for a group of endpoints (traefik/middlewares.py)."""
    if request.method == "OPTIONS":  # web pages may read the answer, whatever was refused
        return allow_any_origin(make_response("", 204, {"Allow": ", ".join(_METHODS)}))
    code = int(status) if _STATUS.fullmatch(status) else 404
    form = Form.PAGE if group in _BROWSED and accepts_page() else _FORMS.get(group, Form.OAUTH)
    text = _KEPT_TEXT if group == "by-grant" and code == 413 else None
    return respond(parts, code, form=form, retry_after=_wait(parts, group) if code == 429 else None, text=text)


def _wait(parts: Parts, group: str) -> int:
    """Return the seconds until Traefik takes another request, or those that this service itself has named, if more."""
    rate = getattr(parts.settings.limits.rates, _RATES.get(group, group), None)
    seconds = math.ceil(rate.period / rate.average) if isinstance(rate, RateLimit) else 1
    try:
        return max(seconds, parts.store.quotas.find_wait(f"{group} {client_address(parts)}"))
    except ServiceUnavailable:
        return seconds
