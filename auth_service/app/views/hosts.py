"""The issuer's endpoints at the hosts of MCP servers, where clients of MCP 2025-03-26 look for them."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, Response, request

from auth_service.app.composition import Parts
from auth_service.protocol import metadata

from .pages import redirect_to


def serve_at_root(app: Flask, prefix: str) -> None:
    """Serve these endpoints at the root of every host, also if the issuer has them below a path, the prefix."""
    rules = {rule.rule: rule for rule in app.url_map.iter_rules()}
    for path in metadata.ENDPOINTS_AT_EVERY_HOST:
        if path not in rules:
            own = rules[prefix + path]
            # Flask answers OPTIONS by itself where it is not named.
            methods = (own.methods or set()) - {"OPTIONS"}
            app.add_url_rule(path, endpoint=own.endpoint, view_func=app.view_functions[own.endpoint], methods=methods)


def find_page_of_issuer(parts: Parts, path: str) -> Response | None:
    """Return the redirect to the issuer's page, where the cookies are, if the request came to another host or path.

    The port is not compared: a proxy in front of the router may have changed it.
    """
    issuer = parts.settings.issuer
    url = urlsplit(issuer)
    if request.path == url.path + path and _requested_name() == url.hostname:
        return None
    query = request.query_string.decode("ascii")
    return redirect_to(f"{issuer}{path}?{query}" if query else f"{issuer}{path}")


def _requested_name() -> str | None:
    try:
        return urlsplit(f"//{request.host}").hostname
    except ValueError:
        return None
