"""Vault: read as `vault kv get` would, from a real server that speaks its API; and what is said when it cannot be."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import LOAD, Desk, code, parameters

from opsbook.errors import SecretError
from opsbook.secrets import vault
from opsbook.secrets.resolve import resolve

VALUE = "vault-kept-value-1"
TOKEN = "hvs.a-token-nobody-may-see"
MOUNTS = {"secret/": "2", "team/kv/": "2", "old/": "1"}
STORED: dict[str, Any] = {
    "/v1/secret/data/app/db": {"data": {"password": VALUE, "port": 5432}, "metadata": {"version": 3}},
    "/v1/team/kv/data/app": {"data": {"password": VALUE}, "metadata": {}},
    "/v1/old/app": {"password": VALUE},
    "/v1/secret/data/with space": {"data": {"password": VALUE}},
}


@dataclass
class Vault:
    """A server with Vault's key-value API, and what it was asked."""

    asked: list[tuple[str, str, str]] = field(default_factory=list)
    status: int = 0
    """What it answers instead, where it is not 0."""
    body: bytes = b""
    held: threading.Event = field(default_factory=threading.Event)
    """Set when it may answer."""
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, token: str) -> tuple[int, object]:
        plain = path.replace("%20", " ")
        if token != TOKEN:
            return 403, {"errors": [f"permission denied for {token}"]}
        inside = plain.removeprefix("/v1/sys/internal/ui/mounts/")
        if inside != plain:
            mount = next((name for name in MOUNTS if f"{inside}/".startswith(name)), "")
            options = None if MOUNTS.get(mount) == "1" else {"version": MOUNTS.get(mount)}
            return (200, {"data": {"path": mount, "options": options}}) if mount else (403, {"errors": ["denied"]})
        return (200, {"data": STORED[plain]}) if plain in STORED else (404, {"errors": []})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    made = Vault()
    made.held.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = self.headers
            made.asked.append((self.path, headers.get("X-Vault-Token", ""), headers.get("X-Vault-Namespace", "")))
            made.held.wait(20)
            status, answer = made.answer(self.path, made.asked[-1][1])
            body = made.body or json.dumps(answer).encode()
            self.send_response(made.status or status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.block_on_close = False
    made.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("VAULT_ADDR", made.address)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    monkeypatch.delenv("VAULT_NAMESPACE", raising=False)
    try:
        yield made
    finally:
        made.held.set()
        http.shutdown()
        thread.join(10)
        http.server_close()


@pytest.mark.parametrize(
    "reference",
    [
        "vault:secret/app/db#password",
        "vault:/secret/app/db/#password",
        "vault:old/app#password",
        "vault:secret/with space#password",
    ],
    ids=["version-2", "slashes", "version-1", "space"],
)
def test_a_value_is_read_from_either_version_of_the_store(server: Vault, reference: str) -> None:
    assert resolve(reference) == VALUE
    assert {token for _, token, _ in server.asked} == {TOKEN}


def test_a_store_may_be_mounted_below_a_folder(server: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_NAMESPACE", "ops/prod")
    assert resolve("vault:team/kv/app#password") == VALUE
    assert server.asked[-1] == ("/v1/team/kv/data/app", TOKEN, "ops/prod")


def test_a_token_may_lie_in_the_home_folder(server: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".vault-token").write_text(f"{TOKEN}\n")
    assert resolve("vault:secret/app/db#password") == VALUE


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("vault:secret/app/db", "does not say which value"),
        ("vault:#password", "does not say which value"),
        ("vault:secret/app/db#", "does not say which value"),
        ("vault:secret/app/db#nothing", "no text under 'nothing'"),
        ("vault:secret/app/db#port", "no text under 'port'"),
        ("vault:secret/nothing#x", "no text under 'x'"),
        ("vault:nowhere/app#x", "does not let this token read it, or there is no such store"),
    ],
)
def test_what_is_not_there_is_said_by_its_reference(server: Vault, reference: str, what: str) -> None:
    with pytest.raises(SecretError) as caught:
        resolve(reference)
    assert what in str(caught.value)
    assert str(caught.value).startswith(reference)


@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (503, b'{"errors": ["Vault is sealed"]}', "Vault is sealed"),
        (500, f'{{"errors": ["{VALUE}"]}}'.encode(), "Vault does not give it (InternalServerError)"),
        (429, b"{}", "asked too often"),
        (418, VALUE.encode(), "Vault does not give it (UnexpectedError)"),
        (200, f"<html>{VALUE}</html>".encode(), "no text under 'password'"),
        (200, f'["{VALUE}"]'.encode(), "no text under 'password'"),
    ],
)
def test_no_answer_of_a_server_breaks_it_or_is_repeated(server: Vault, status: int, body: bytes, what: str) -> None:
    server.status, server.body = status, body
    with pytest.raises(SecretError) as caught:
        resolve("vault:secret/app/db#password")
    error = caught.value
    assert what in str(error)
    shown = f"{error!r} {error.hint} {error.__cause__!r}"
    assert VALUE not in shown
    assert TOKEN not in shown


def test_a_wrong_token_is_not_shown(server: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "wrong-token-value")
    with pytest.raises(SecretError, match="does not let this token") as caught:
        resolve("vault:secret/app/db#password")
    assert "wrong-token" not in f"{caught.value!r}"


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("http://user:pass-in-address@127.0.0.1:1/x", "Vault at 127.0.0.1:1 cannot be asked (ConnectionError)"),
        ("nonsense", "cannot be asked (MissingSchema)"),
        ("http://[::1", "the Vault of VAULT_ADDR"),
    ],
)
def test_a_vault_that_is_not_there_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, address: str, what: str
) -> None:
    monkeypatch.setenv("VAULT_ADDR", address)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with pytest.raises(SecretError) as caught:
        resolve("vault:secret/app#x")
    assert what in str(caught.value)
    assert "pass-in-address" not in f"{caught.value!r}"


def test_a_vault_that_does_not_answer_is_given_up(server: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "ANSWER_S", 0.2)
    server.held.clear()
    with pytest.raises(SecretError, match=r"cannot be asked \(ReadTimeout\)"):
        resolve("vault:secret/app/db#password")


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hvac", None)
    with pytest.raises(SecretError, match="needs hvac, which is not installed") as caught:
        resolve("vault:secret/app#x")
    assert caught.value.hint == 'pip install "opsbook[vault]"'


def test_a_runbook_is_given_what_vault_keeps_and_its_record_the_reference_alone(server: Vault, desk: Desk) -> None:
    desk.notebook(
        LOAD,
        parameters('token: Secret = "vault:secret/app/db#password"'),
        code("print(len(token.reveal()), token.reveal())", cell_id="say"),
    )
    environment = {**desk.environment, "VAULT_ADDR": server.address, "VAULT_TOKEN": TOKEN}
    ran = desk.opsbook("run", "book.ipynb", env=environment)
    assert ran.code == 0, ran
    run = desk.run()
    assert run.output("say") == f"{len(VALUE)} ***\n"
    used = [(use["reference"], use["used_for"], use["times"]) for use in run.record["secret_uses"] if use["cell_id"]]
    assert used == [("vault:secret/app/db#password", "notebook", 2)]
    for file in run.folder.rglob("*"):
        text = file.read_text() if file.is_file() else ""
        assert VALUE not in text, file
        assert TOKEN not in text, file


NAMES = {"web1": "127.0.0.2"}
