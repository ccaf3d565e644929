"""What Traefik answers with where it refuses a request itself (`app/traefik.py`): its own answers are plain text.

Traefik keeps the status, and asks for the rest with the headers of the request that was refused.
"""

from __future__ import annotations

import math
import re

from flask import Blueprint, Response, make_response, request

from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import RateLimit

from . import allow_any_origin, client_address, gateway
from .pages import accepts_page
from .statuses import Form, respond

blueprint = Blueprint("refusals", __name__)

_FORMS = {"authorization": Form.PAGE, "mcp": Form.JSON_RPC}
_STATUS = re.compile(r"40[0-9]|41[0-8]|42[1-689]|431|50[0-4]")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@blueprint.route("/refusals/<status>", methods=_METHODS)
def refuse(status: str) -> Response:
    """Answer for a group of endpoints; without one, for a path that leads nowhere."""
    if request.method == "OPTIONS":  # whatever was refused, web pages may read the answer
        return allow_any_origin(make_response("", 204, {"Allow": ", ".join(_METHODS)}))
    group = request.args.get("for", "")
    code = int(status) if _STATUS.fullmatch(status) else 404
    form = _FORMS.get(group) or (Form.PAGE if not group and accepts_page() else Form.OAUTH)
    return respond(code, form=form, retry_after=_wait(group) if code == 429 else None)


def _wait(group: str) -> int:
    """Return how long to wait: until Traefik takes one request more, or as long as this service said itself there."""
    rate = getattr(gateway().settings.limits.rates, group, None)
    seconds = math.ceil(rate.period / rate.average) if isinstance(rate, RateLimit) else 1
    try:
        return max(seconds, gateway().store.ephemeral.find_wait(f"{group} {client_address()}"))
    except ServiceUnavailable:
        return seconds
