"""The contract between deployment and service: settings.json, and secrets as credential files.

The NixOS module, the local launcher and the tests write this file; nothing else configures the service.
It never holds secrets: each is a file in the credentials directory (systemd's `LoadCredential`).
"""

from __future__ import annotations

from .access import AllowList, GitHub, OpenIDConnect
from .clients import DEFAULT_PROBE_URLS, MAX_PROBE_URLS, AppScheme, ClientDocuments
from .credentials import Credentials, load_credentials, load_identity_key, load_master_key, load_redis_password
from .declared_clients import DeclaredClient
from .gateway import OWN_PATHS, SENTINEL_URL, Settings, load_settings
from .limits import Lifetimes, RateLimit
from .resources import BackendTls, Resource, Scope
from .tracing import Tracing
from .trusted_issuers import MAX_SUBJECT_LENGTH, TrustedIssuer
from .user_credentials import Connection, UserCredential, VariableName
from .values import SettingsError, is_loopback_host

__all__ = [
    "DEFAULT_PROBE_URLS",
    "MAX_PROBE_URLS",
    "MAX_SUBJECT_LENGTH",
    "OWN_PATHS",
    "SENTINEL_URL",
    "AllowList",
    "AppScheme",
    "BackendTls",
    "ClientDocuments",
    "Connection",
    "Credentials",
    "DeclaredClient",
    "GitHub",
    "Lifetimes",
    "OpenIDConnect",
    "RateLimit",
    "Resource",
    "Scope",
    "Settings",
    "SettingsError",
    "Tracing",
    "TrustedIssuer",
    "UserCredential",
    "VariableName",
    "is_loopback_host",
    "load_credentials",
    "load_identity_key",
    "load_master_key",
    "load_redis_password",
    "load_settings",
]
