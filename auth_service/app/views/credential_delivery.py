"""`/credentials/NAME`: the bridge of a server asks for a user's credentials. Traefik does not route it."""

from __future__ import annotations

import contextlib

from flask import Response, abort, jsonify, make_response, request

from auth_service.app.composition import Parts
from auth_service.backends.assertions import derive_identity_key
from auth_service.backends.credential_requests import CredentialRequests, InvalidCredentialRequestError
from auth_service.ops.audit import Event
from auth_service.protocol.errors import WritesRefused
from auth_service.storage.grants import Grant

from . import Endpoints, forbid_storing, record

blueprint = Endpoints("credential_delivery", __name__)
blueprint.after_request(forbid_storing)


@blueprint.post("/credentials/<name>")
def deliver(parts: Parts, name: str) -> Response:
    """Return a user's credentials for a server, encrypted for its bridge (docs/contracts.md).

    401 means that the user has to log in again, since the grant has ended or a credential is missing. 403 is for
    everything that no bridge of this server has signed.
    """
    resource = parts.settings.resources.get(name)
    if resource is None or not resource.user_credentials:
        abort(404)
    bridge = CredentialRequests(derive_identity_key(parts.credentials, name), audience=resource.url)
    try:
        asked = bridge.parse(request.get_data())
    except InvalidCredentialRequestError as error:
        record(Event.CREDENTIAL_REFUSED, resource=resource.url, reason=str(error))
        return make_response(jsonify(error="invalid_request"), 403)
    grant = None if asked.has_ended else parts.store.grants.find(asked.sid)
    if grant is None or (grant.sub, grant.resource) != (asked.sub, resource.url):
        record(Event.CREDENTIAL_REFUSED, resource=resource.url, user=asked.sub, reason="the grant has ended")
        return _log_in_again()
    secrets = parts.connections.read_fresh(name, grant.sub)
    missing = [variable for variable in resource.user_credentials if variable not in secrets]
    if missing:
        # The grant ends: with a live one the client would only refresh its token, and no page would ask the user. The
        # user's other processes end, too: they may have the former value, and must not use it once the user has
        # provided a new one. That notice comes after the one about the grant, so that this client is told to log in
        # again, and not that its session has ended; and right after it, before the client's next login has a process.
        parts.revocation.revoke_grant(
            grant.sid,
            by="gateway",
            reason="a credential is missing",
            notify=lambda: parts.notices.end_processes(name, grant.sub),
        )
        return _refuse(grant, f"missing: {', '.join(missing)}")
    # The user may have removed a credential since it was read. A removal ends the user's grants, too. Either that is
    # seen here, or the bridge gets the notice that follows the removal, and discards this answer.
    if parts.store.grants.find(grant.sid) is None:
        return _refuse(grant, "the grant has ended")
    environment = {variable: secrets[variable].value for variable in resource.user_credentials}
    ends = [secret.expires_at for variable, secret in secrets.items() if variable in environment]
    with contextlib.suppress(WritesRefused):  # for the account page alone
        parts.user_credentials.note_use(name, grant.sub, list(environment))
    record(Event.CREDENTIAL_DELIVERED, of=grant)
    expires_at = min((end for end in ends if end is not None), default=None)
    return jsonify(credentials=bridge.seal(asked, environment, expires_at=expires_at))


def _refuse(grant: Grant, reason: str) -> Response:
    record(Event.CREDENTIAL_REFUSED, of=grant, reason=reason)
    return _log_in_again()


def _log_in_again() -> Response:
    return make_response(jsonify(error="invalid_token"), 401)
