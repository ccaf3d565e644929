"""The module's own units under a real systemd: the same scripts that the VM tests run."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.systemd import deployment
from tests.systemd.container import Container, booted
from tests.systemd.driver import Machine, run_script
from tests.systemd.network import switch
from tests.systemd.root import BUNDLE, STORE_PREFIX, cached_root

CHECKOUT = Path(__file__).parents[2]
SCENARIOS = CHECKOUT / "tests/nixos"
EVALUATED = Path(__file__).parent / "evaluated"
COMMANDS = {
    "opt/gateway/bin/mcp-auth-service": "auth_service.__main__",
    "opt/gateway/bin/mcp-gatewayctl": "auth_service.cli",
    "opt/gateway/bin/mcp-stdio-bridge": "stdio_bridge.__main__",
    "opt/test/bin/stand-in-github": "local.github",
    "opt/test/bin/test-client": "tests.nixos.client",
}
SOURCES = ("auth_service", "stdio_bridge", "local", "tests")

needs_container = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("debootstrap", "systemd-nspawn", "unshare", "nsenter"))),
    reason="needs root, debootstrap and systemd-nspawn",
)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    configuration = deployment.load(EVALUATED / "full_flow.json")
    root = cached_root(CHECKOUT)
    folder = tmp_path_factory.mktemp("container")
    upper = folder / "upper"
    deployment.install(configuration, upper)
    _install_programs(upper)
    _install_secrets(upper, root, [name for names in configuration.hosts.values() for name in names])
    with (
        switch() as network,
        booted(
            name=f"gateway-{os.getpid()}", lower=root, folder=folder, network=network.plug("192.168.1.1")
        ) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def machine(container: Container) -> Machine:
    return Machine(container, path=f"/{STORE_PREFIX}mcp-oauth-gateway/bin:/{STORE_PREFIX}test-client/bin")


@needs_container
@pytest.mark.timeout(900)
def test_the_whole_flow_with_every_unit_started_by_systemd(machine: Machine) -> None:
    run_script(SCENARIOS / "full_flow.py", machine)


@needs_container
@pytest.mark.timeout(900)
def test_every_unit_is_sandboxed_and_keys_are_for_root_alone(machine: Machine) -> None:
    run_script(SCENARIOS / "hardening.py", machine)


def _install_programs(upper: Path) -> None:
    source = upper / "opt/source"
    for name in SOURCES:
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "npm"))
    for path, module in COMMANDS.items():
        command = upper / path
        command.parent.mkdir(parents=True, exist_ok=True)
        command.write_text(
            "#!/opt/gateway/bin/python\nimport sys\nsys.path.insert(0, '/opt/source')\n"
            f"from {module} import main\nsys.exit(main())\n"
        )
        command.chmod(0o755)


def _install_secrets(upper: Path, root: Path, names: list[str]) -> None:
    """Write a self-signed certificate that the machine trusts, and the application's secret."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = {
        "etc/test-certificates/server.crt": pem,
        "etc/test-certificates/server.key": private,
        "etc/test-secrets/github-client-secret": b"s3cret\n",
        str(BUNDLE): (root / BUNDLE).read_bytes() + pem,
    }
    for name, content in files.items():
        path = upper / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
