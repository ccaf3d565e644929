"""`stand-in-drive`: a service at which users connect their accounts, and which says whose each token is."""

from __future__ import annotations

import argparse
import sys

from flask.typing import ResponseReturnValue
from werkzeug.serving import make_server

from local.github import parse_loopback_address
from tests.connected_service import StandIn, create_app


def main() -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="stand-in-drive")
    parser.add_argument("--listen", required=True, type=parse_loopback_address, metavar="ADDRESS:PORT")
    parser.add_argument("--origin", required=True, help="where users and the gateway reach it")
    parser.add_argument("--callback-url", required=True, help="where users come back to the gateway")
    options = parser.parse_args()
    stand_in = StandIn(redirect_uris=[options.callback_url], origin=options.origin)
    app = create_app(stand_in)

    @app.get("/tokens/<token>")
    def find_account(token: str) -> ResponseReturnValue:
        return stand_in.access_tokens.get(token) or ("", 404)

    host, port = options.listen
    make_server(host, port, app, threaded=True).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
