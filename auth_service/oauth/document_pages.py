"""The pages for users whose application has a client document that cannot be used here."""

from __future__ import annotations

from typing import Final

from auth_service.protocol import client_documents
from auth_service.protocol.display import display_text
from auth_service.protocol.errors import ClientDocumentError, ClientDocumentsDisabled, ClientHostNotAllowed, PageError

_WAY_OUT: Final = (
    "The service needs name resolution and outgoing https to {host}, or a proxy that has both "
    "(clientDocuments.proxy). mcp-gatewayctl doctor tries it."
)
_SWITCH: Final = "clientDocuments.enable turns them on."
_LIST: Final = "{host} is not in clientDocuments.allowedHosts."


def explain_document_error(client_id: str, error: ClientDocumentError) -> PageError:
    """Return the page that says what is wrong, and what the user and the operator can do."""
    url = display_text(client_id)
    if isinstance(error, ClientDocumentsDisabled):
        return PageError(
            "This gateway does not accept client documents",
            f"The application identifies itself by {url}. The operator allows no such applications: they register here "
            "instead. Nothing has expired.",
            help_registration=True,
            operator=_SWITCH,
        )
    what, operator = "Only its publisher can mend this.", None
    if isinstance(error, ClientHostNotAllowed):
        what, operator = "The operator decides which hosts are allowed.", _LIST
    elif error.is_transient:
        what, operator = "Try again in a moment.", _WAY_OUT
    return PageError(
        "This application cannot be identified",
        f"It is described at {url}, but {error.reason}. {what}",
        help_registration=True,
        operator=operator.format(host=display_text(client_documents.host_of(client_id) or "")) if operator else None,
    )
