"""Ask bridges what their servers offer (docs/contracts.md, "Surveys")."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import urljoin

import requests
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from urllib3.exceptions import HTTPError

from auth_service.idp.http import Session
from auth_service.settings import Settings

from .assertions import BackendSigner

PATH: Final = "/survey"
TIMEOUT_SECONDS: Final = 90
"""The bridge gives its server 60 s."""
AT_ONCE: Final = 4
"""A survey starts a server, and all at once would be too much load."""
MAX_BYTES: Final = 64 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Change(_Part):
    """One part of a tool's definition that differs from the lock file; None where it is absent."""

    path: str
    locked: str | None
    listed: str | None


class Difference(_Part):
    """A tool that differs from the lock file."""

    tool: str
    reason: Literal["new", "changed", "duplicate", "missing"]
    changes: list[Change]

    @property
    def hides(self) -> bool:
        """Whether clients do without a tool because of it."""
        return self.reason != "missing"


class Survey(_Part):
    """What a server offers. `lock` is the text of a lock file of its tools, or None for the reason in `problem`."""

    tools: int
    lock: str | None
    problem: str | None
    locked: bool
    differences: list[Difference]
    unmatched_rules: dict[str, list[str]]


class SurveyError(Exception):
    """There is no survey; the text is for the operator."""


class NoBridgeError(SurveyError):
    """What answers is not a bridge, or one that is older than surveys."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one backend of a server has answered."""

    name: str
    endpoint: str
    survey: Survey | SurveyError


_REPORT: Final = TypeAdapter(dict[Literal["mcp-stdio-bridge"], Survey])


def ask_all(settings: Settings, keys: Mapping[str, bytes]) -> Iterable[Answer]:
    """Ask every backend of the servers with these identity keys, and yield the answers in the order of the settings."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [
            (name, endpoint, pool.submit(_find, BackendSigner(key), endpoint))
            for name, key in keys.items()
            for endpoint in settings.resources[name].endpoints
        ]
        for name, endpoint, found in asked:
            yield Answer(name=name, endpoint=endpoint, survey=found.result())


def _find(signer: BackendSigner, endpoint: str) -> Survey | SurveyError:
    try:
        return _ask(signer, endpoint)
    except SurveyError as error:
        return error


def _ask(signer: BackendSigner, endpoint: str) -> Survey:
    """Raises SurveyError."""
    try:
        with Session(seconds=TIMEOUT_SECONDS) as session:
            session.trust_env = False
            with session.post(
                urljoin(endpoint, PATH),
                data=signer.sign_survey(),
                headers={"Content-Type": "text/plain", "Accept-Encoding": "identity"},
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
                stream=True,
            ) as answer:
                body = answer.raw.read(MAX_BYTES + 1, decode_content=False)
            if session.is_over:
                raise SurveyError(f"did not answer within {TIMEOUT_SECONDS} s")
    except requests.Timeout as error:
        raise SurveyError(f"did not answer within {TIMEOUT_SECONDS} s") from error
    except (requests.RequestException, HTTPError, OSError) as error:
        raise SurveyError("cannot be reached") from error
    if answer.status_code != HTTPStatus.OK:
        raise _refusal(answer.status_code, body)
    if len(body) > MAX_BYTES:
        raise SurveyError(f"answered with more than {MAX_BYTES} bytes")
    try:
        (survey,) = _REPORT.validate_json(body).values()
    except (ValidationError, ValueError) as error:
        raise NoBridgeError("answered something that no bridge does") from error
    if survey.lock is not None and not all(each.isprintable() or each == "\n" for each in survey.lock):
        raise NoBridgeError("answered with characters that no lock file has")
    return survey


def _refusal(status: int, body: bytes) -> SurveyError:
    if status == HTTPStatus.FORBIDDEN:
        text = "refuses this command: its identity key or its clock differs, or it was started with --no-identity"
        return SurveyError(text)
    reason = _message(body)
    if status in {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE} and reason is not None:
        return SurveyError(reason)
    return NoBridgeError(f"answers {status}: it is no bridge, or one of an older release")


def _message(body: bytes) -> str | None:
    """Return the message of a JSON-RPC error."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    match document:
        case {"error": {"message": str(text)}}:
            return text
    return None
