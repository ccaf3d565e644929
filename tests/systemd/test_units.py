"""The module's own units under a real systemd: the same scripts that the VM tests run."""

from __future__ import annotations

import contextlib
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

from tests.internet import Authority, key_usage_of_authority
from tests.systemd import deployment
from tests.systemd.container import Container
from tests.systemd.driver import QemuMachine, run_script
from tests.systemd.network import switch
from tests.systemd.programs import SEARCH_PATH, install_programs
from tests.systemd.root import BUNDLE, cached_root

CHECKOUT = Path(__file__).parents[2]
SCENARIOS = CHECKOUT / "tests/nixos"
EVALUATED = Path(__file__).parent / "evaluated"


def has_container() -> bool:
    """Whether this machine can run one."""
    return os.geteuid() == 0 and all(map(shutil.which, ("debootstrap", "systemd-nspawn", "unshare", "nsenter")))


needs_container = pytest.mark.skipif(not has_container(), reason="needs root, debootstrap and systemd-nspawn")


@contextlib.contextmanager
def deployed(scenario: str, folder: Path) -> Iterator[dict[str, QemuMachine]]:
    """The machines of an evaluated scenario on one switch, not booted yet."""
    configurations = deployment.load_machines(EVALUATED / f"{scenario}.json")
    lower = cached_root(CHECKOUT)
    names = {name for each in configurations.values() for names in each.hosts.values() for name in names}
    secrets = _secrets(lower, sorted(names), folder)
    # As NixOS' test driver numbers them: by name, from 1.
    addresses = {name: f"192.168.1.{number}" for number, name in enumerate(sorted(configurations), 1)}
    with contextlib.ExitStack() as cleanup:
        network = cleanup.enter_context(switch())
        machines: dict[str, QemuMachine] = {}
        for name, configuration in configurations.items():
            upper = folder / name / "upper"
            deployment.install(configuration, upper, neighbours=addresses)
            install_programs(CHECKOUT, upper)
            _write(upper, secrets)
            container = Container(
                name=f"{name}-{os.getpid()}", lower=lower, folder=folder / name, network=network.plug(addresses[name])
            )
            cleanup.callback(container.remove)
            machines[name] = QemuMachine(container, name=name, path=SEARCH_PATH)
        yield machines


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, QemuMachine]]:
    with deployed("full_flow", tmp_path_factory.mktemp("machines")) as machines:
        yield machines


@needs_container
@pytest.mark.timeout(2400)
def test_the_whole_flow_with_every_unit_started_by_systemd(one_host: dict[str, QemuMachine]) -> None:
    run_script(SCENARIOS / "full_flow.py", one_host)


@needs_container
@pytest.mark.timeout(2400)
def test_every_unit_is_sandboxed_and_keys_are_for_root_alone(one_host: dict[str, QemuMachine]) -> None:
    run_script(SCENARIOS / "hardening.py", one_host)


@needs_container
@pytest.mark.timeout(2400)
def test_an_operator_sees_how_it_is_and_no_secret(one_host: dict[str, QemuMachine]) -> None:
    run_script(SCENARIOS / "operating.py", one_host)


@needs_container
@pytest.mark.timeout(2400)
def test_what_processes_are_started_by_recovers_from_every_failure(one_host: dict[str, QemuMachine]) -> None:
    run_script(SCENARIOS / "recovery.py", one_host)


@needs_container
@pytest.mark.timeout(2400)
def test_a_hostile_server_stays_in_its_sandbox(tmp_path: Path) -> None:
    with deployed("sandboxes", tmp_path) as machines:
        run_script(SCENARIOS / "sandboxes.py", machines)


@needs_container
@pytest.mark.timeout(2400)
def test_adding_changing_or_removing_a_server_touches_nothing_else(tmp_path: Path) -> None:
    with deployed("switching", tmp_path) as machines:
        run_script(SCENARIOS / "switching.py", machines)


@needs_container
@pytest.mark.timeout(2400)
def test_a_replica_that_dies_costs_its_own_sessions_only(tmp_path: Path) -> None:
    with deployed("replicas", tmp_path) as machines:
        run_script(SCENARIOS / "replicas.py", machines)


@needs_container
@pytest.mark.timeout(2400)
def test_several_hosts_are_one_gateway_and_outlive_each_other(tmp_path: Path) -> None:
    with deployed("several_hosts", tmp_path) as machines:
        run_script(SCENARIOS / "several_hosts.py", machines)


@needs_container
@pytest.mark.timeout(2400)
def test_certificates_are_obtained_by_each_kind_of_challenge(tmp_path: Path) -> None:
    with deployed("acme", tmp_path) as machines:
        run_script(SCENARIOS / "acme.py", machines)


def _secrets(root: Path, names: list[str], folder: Path) -> dict[str, bytes]:
    """Return the files of certificates and secrets.

    The machines trust one certificate, which is self-signed, and no authority of the others.
    """
    authority = Authority(folder)
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
        .add_extension(key_usage_of_authority(signs_data=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "etc/test-certificates/server.crt": pem,
        "etc/test-certificates/server.key": private,
        "etc/test-certificates/private-ca.pem": authority.certificate,
        "etc/test-certificates/backend.pem": authority.issue("backend.mcp.example.com"),
        "etc/test-certificates/gateway.pem": authority.issue("gateway"),
        "etc/test-secrets/backend-token": b"the-gateways-own-token\n",
        "etc/test-secrets/drive-client-secret": b"s3cret of the/application\n",
        "etc/test-secrets/github-client-secret": b"s3cret\n",
        "etc/test-secrets/master-key": b"0123456789abcdef" * 4,
        str(BUNDLE): (root / BUNDLE).read_bytes() + pem,
    }


def _write(upper: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = upper / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@needs_container
@pytest.mark.timeout(1800)
def test_every_part_sends_traces_from_within_its_sandbox(tmp_path: Path) -> None:
    with deployed("tracing", tmp_path) as machines:
        run_script(SCENARIOS / "tracing.py", machines)
