"""A public internet on loopback: names, addresses and HTTPS servers of all kinds, hostile ones included.

What is real: TLS with a certificate authority of its own, sockets, HTTP as bytes. What is told: which addresses a name
has, and that a connection to any of them ends at the one server here.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from auth_service.oauth.safe_fetch import SafeFetcher

PUBLIC_ADDRESS = "93.184.215.14"
Answer = Callable[[ssl.SSLSocket, bytes], None]
"""What a server does with a connection on which it has read a request's head."""


class Authority:
    """A certificate authority."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self._certificate = (
            self._builder(self._name, self._key.public_key(), days=1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage_of_authority(), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
        )

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, as PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def client_context(self) -> ssl.SSLContext:
        """Return what a client that trusts this authority, and no other, verifies with."""
        return ssl.create_default_context(cadata=self.certificate.decode())

    def issue(self, *names: str, days: int = 1) -> bytes:
        """Return a new key and its certificate with those names, as PEM; negative days: expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            self._builder(subject, key.public_key(), days=days)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private_key + certificate.public_bytes(Encoding.PEM)

    def server_context(self, *hosts: str, days: int = 1) -> ssl.SSLContext:
        """Return what a server for those hosts serves with; negative days: expired."""
        file = self._directory / f"{hosts[0]}-{secrets.token_hex(8)}.pem"
        file.write_bytes(self.issue(*hosts, days=days))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def key_usage_of_authority(*, signs_data: bool = False) -> x509.KeyUsage:
    """Return what RFC 5280 §4.2.1.3 asks of an authority; Python 3.13 refuses one without it.

    `signs_data`: for a certificate that is a server's own as well.
    """
    return x509.KeyUsage(
        digital_signature=signs_data,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class Internet:
    """Names and one server. Tests change `addresses` (host → addresses) and `pages` (path → answer) as they go."""

    def __init__(self, directory: Path, *hosts: str) -> None:
        self.authority = Authority(directory)
        self.tls = self.authority.server_context(*hosts)
        self.addresses: dict[str, Sequence[str]] = dict.fromkeys(hosts, (PUBLIC_ADDRESS,))
        self.pages: dict[str, Answer] = {}
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        """Where the one server really listens, on loopback."""
        return int(self._listener.getsockname()[1])

    @property
    def asked_for(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [request.split(b" ", 2)[1].decode() for request in self.requests]

    def fetcher(self, *, deadline: float = 5.0) -> SafeFetcher:
        """Return a fetcher that lives in this internet."""
        return SafeFetcher(
            resolve=self.resolve, connect=self.connect, tls=self.authority.client_context(), deadline=deadline
        )

    def resolve(self, host: str) -> Sequence[str]:
        """Look a name up."""
        self.resolved.append(host)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.addresses[host]

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        """Connect to an address, all of which end here."""
        self.connected.append((address, port))
        return socket.create_connection(self._listener.getsockname(), timeout=timeout)

    def close(self) -> None:
        """End every connection and thread."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # SSLSocket's own forgets that there was TLS
        for thread in self._threads:
            thread.join(60)
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # An answer is not to wait until the client has acknowledged TLS' session tickets, which takes it 40 ms.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            try:
                connection = self.tls.wrap_socket(plain, server_side=True)
            except OSError:
                plain.close()
                raise
            self._connections.append(connection)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(4096)):
                    return
                head += data
            self.requests.append(head)
            path = head.split(b" ", 2)[1].decode()
            self.pages.get(path, respond(b"", status="404 Not Found"))(connection, head)
            connection.unwrap()


def respond(body: bytes, *, status: str = "200 OK", **headers: str) -> Answer:
    """Return an answer with a JSON body; `headers` may override what it usually has."""
    usual = {"content_type": "application/json", "content_length": str(len(body))}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in (usual | headers).items() if value]
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")
    return send(head + body)


def respond_json(document: Any, **headers: str) -> Answer:
    """Return an answer with that document."""
    return respond(json.dumps(document).encode(), **headers)


def send(data: bytes) -> Answer:
    """Return an answer of exactly these bytes."""

    def answer(connection: ssl.SSLSocket, _request: bytes) -> None:
        connection.sendall(data)

    return answer


def drip(data: bytes) -> Answer:
    """Return an answer whose bytes come one by one, for ever: the last is repeated."""

    def answer(connection: ssl.SSLSocket, _request: bytes) -> None:
        connection.sendall(data[:-1])
        done = threading.Event()
        while not done.wait(0.02):
            connection.sendall(data[-1:])

    return answer


def silence() -> Answer:
    """Return an answer that never comes; it ends when the other side gives up."""

    def answer(connection: ssl.SSLSocket, _request: bytes) -> None:
        connection.recv(1)

    return answer


@contextlib.contextmanager
def internet(directory: Path, *hosts: str) -> Iterator[Internet]:
    """Make an internet and end it."""
    made = Internet(directory, *hosts)
    try:
        yield made
    finally:
        made.close()
