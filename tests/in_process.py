"""Requests of the auth service to a stand-in in the same process."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests
from flask import Flask
from requests.adapters import BaseAdapter


class InProcess(BaseAdapter):
    """Answers each request from a WSGI application, without a socket."""

    def __init__(self, app: Flask) -> None:
        super().__init__()
        self._app = app

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Answer one request."""
        parts = urlsplit(request.url or "")
        answer = self._app.test_client().open(
            parts.path,
            method=request.method or "GET",
            query_string=str(parts.query),
            headers=dict(request.headers),
            data=request.body,
        )
        response = requests.Response()
        response.status_code = answer.status_code
        response.headers.update(answer.headers)
        response.raw = _Body(answer.data)
        response.request = request
        return response

    def close(self) -> None:
        """Nothing is open."""


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, amount: int | None = None, *, decode_content: bool = False) -> bytes:
        taken, self._data = self._data[:amount], self._data[amount or len(self._data) :]
        return taken

    def release_conn(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""
