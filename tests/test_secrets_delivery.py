"""On its way to the notebook and to a target a secret leaves no trace: looked for everywhere while a run is on."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sshd
from rig import Rig, target_of
from servers import User, new_user, serve
from support import LOAD, Desk, code, finish, parameters, wait_for

from opsbook.errors import SecretError

NAMES = {"web1": "127.0.0.2"}
VALUE = "sits-in-no-process-and-no-file"
SHARED = "shared-by-all-of-the-team"
SETTINGS = 'inventory = ["hosts.ini"]\n[env.secrets]\nTEAM_TOKEN = "file:shared"\n'


def processes() -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the argument list and the environment of every process, and its id."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            yield place.name, (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue


def holders(value: str) -> dict[str, bytes]:
    """The environments of the processes that hold a value in it; no argument list may."""
    found = {}
    for pid, line, environment in processes():
        assert value.encode() not in line, (pid, line)
        if value.encode() in environment:
            found[pid] = environment
    return found


def files_with(value: str, *folders: Path) -> list[Path]:
    found = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return [file for file in found if value.encode() in file.read_bytes()]


@pytest.fixture
def keeper(desk: Desk) -> Iterator[Desk]:
    """A desk whose secrets lie in files, and whose temporary files lie apart, in a place short enough for sockets."""
    for name, value in (("token", VALUE), ("shared", SHARED)):
        desk.write(name, f"{value}\n").chmod(0o600)
    desk.write("opsbook.toml", SETTINGS)
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        desk.extra["TMPDIR"] = temporary
        yield desk


@pytest.mark.parametrize("how", ["", "--durable"])
def test_while_a_command_has_a_secret_it_is_nowhere_but_in_that_command(keeper: Desk, sshd: Sshd, how: str) -> None:
    here, go = keeper.folder / "here", keeper.folder / "go"
    keeper.notebook(
        LOAD,
        parameters("token: Secret"),
        code("import os\nheld = token.reveal(), os.environ['TEAM_TOKEN']\nprint(held, vars())", cell_id="say"),
        code(
            f"%%on web --env API=token {how}\n[ ${{#API}} = {len(VALUE)} ] && touch {here}\n"
            f"sh -c 'until [ -e {go} ]; do sleep 0.2; done'\necho \"$API\"",
            cell_id="there",
        ),
    )
    process = keeper.start("run", "book.ipynb", "-p", "token=file:token")
    try:
        wait_for(lambda: here.exists() or process.poll() is not None, seconds=60)
        given = wait_for(lambda: holders(VALUE), seconds=30, what="that the command has it")
        assert all(b"OPSBOOK_TARGET=web1" in environment for environment in given.values())
        assert holders(SHARED) == {}
        sources = {keeper.folder / "token", keeper.folder / "shared"}
        temporary = Path(keeper.extra["TMPDIR"])
        assert list(temporary.rglob("kernel.json"))
        for value in (VALUE, SHARED):
            assert set(files_with(value, keeper.folder, sshd.folder, temporary)) <= sources
    finally:
        go.touch()
        ran = finish(process)
    assert ran.code == 0, ran
    run = keeper.run()
    assert "***" in run.output("say")
    for value in (VALUE, SHARED):
        assert value not in ran.out + ran.err
        assert set(files_with(value, keeper.folder, sshd.folder)) <= sources
    assert holders(VALUE) == holders(SHARED) == {}


def test_the_record_tells_which_secrets_were_used_and_for_what_and_nothing_of_their_values(keeper: Desk) -> None:
    keeper.notebook(
        LOAD,
        parameters('token: Secret = "file:token"\nunused: Secret = "file:shared"'),
        code("for _ in range(3):\n    token.reveal()\nprint(secret('file:late').reveal())", cell_id="say"),
        code("targets().run('true', read_only=True, env={'API': token})", cell_id="there"),
    )
    late = keeper.write("late", "known-to-nobody-before-it-is-used\n")
    ran = keeper.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    assert keeper.run().output("say") == "***\n"
    assert set(files_with(late.read_text().strip(), keeper.folder)) == {late}
    record = keeper.run().record
    assert record["secrets"] == ["token", "unused"]
    told = [(use["reference"], use["used_for"], use["cell_id"], use["times"]) for use in record["secret_uses"]]
    assert told == [
        (f"file:{keeper.folder}/canary", "[env] CANARY", None, 1),
        (f"file:{keeper.folder}/shared", "[env] TEAM_TOKEN", None, 1),
        ("file:token", "notebook", "say", 3),
        ("file:late", "notebook", "say", 1),
        ("file:token", "--env API", "there", 1),
    ]
    assert {name for use in record["secret_uses"] for name in use} == {
        *("reference", "used_for", "cell_id", "first_at", "times")
    }
    events = keeper.run().events("secret_used")
    assert len(events) == sum(use["times"] for use in record["secret_uses"])
    assert len(VALUE) not in [value for event in events for value in event.values()]


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    if os.getuid() != 0:
        pytest.skip("only root can create a user with a password")
    with new_user() as made:
        yield made


@pytest.mark.parametrize("given", ["reference", "itself"])
def test_a_password_to_log_in_with_leaves_its_use_and_no_other_trace(
    keeper: Desk, sshd: Sshd, user: User, given: str
) -> None:
    keeper.write("password", user.password).chmod(0o600)
    reference = f"file:{keeper.folder}/password" if given == "reference" else user.password
    with serve(sshd, keeper.folder / "sshd", PasswordAuthentication="yes") as server:
        keeper.write(
            "hosts.ini",
            f"web1 ansible_host=127.0.0.2 ansible_port={server.port} ansible_user={user.name} "
            f"ansible_password='{reference}' "
            f"ansible_ssh_common_args='-o UserKnownHostsFile={server.known_hosts} -o IdentitiesOnly=yes'\n",
        )
        keeper.notebook(LOAD, code("%%on web1\nid -un", cell_id="who"))
        ran = keeper.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    assert user.name in ran.out + keeper.run().output("who")
    used = [use["reference"] for use in keeper.run().record["secret_uses"] if use["used_for"] == "login"]
    assert used == [reference if given == "reference" else "inline:***"]
    sources = {keeper.folder / "password", keeper.folder / "hosts.ini"}
    assert set(files_with(user.password, keeper.folder)) <= sources
    assert user.password not in ran.out + ran.err


def test_a_password_is_asked_for_once_for_each_thing_it_is_used_for(sshd: Sshd, tmp_path: Path) -> None:
    rig = Rig((target_of(sshd, "web1"),), tmp_path)
    asked: list[tuple[str, str]] = []

    def reveal(reference: str, *, used_for: str, cell_id: str | None) -> str:
        asked.append((reference, used_for))
        return VALUE

    rig.journal.reveal = reveal  # type: ignore[method-assign]
    secrets = rig.session.secrets
    for _ in range(2):
        assert secrets.login_password("env:PASSWORD") == secrets.sudo_password("web1", "env:PASSWORD") == VALUE
    assert secrets.reveal("env:PASSWORD") == VALUE
    assert asked == [("env:PASSWORD", "login"), ("env:PASSWORD", "sudo"), ("env:PASSWORD", "notebook")]
    secrets.bar_sudo("web1", "env:PASSWORD")
    with pytest.raises(SecretError, match="refused here before"):
        secrets.sudo_password("web1", "env:PASSWORD")
    assert secrets.sudo_password("web2", "env:PASSWORD") == VALUE
    rig.close()


def test_the_injected_cell_holds_references_alone(keeper: Desk) -> None:
    keeper.notebook(LOAD, parameters("token: Secret"), code("print(token)", cell_id="say"))
    assert keeper.opsbook("run", "book.ipynb", "-p", "token=file:token").code == 0
    (injected,) = (
        cell for cell in keeper.run().notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", ())
    )
    lines = [line for line in "".join(injected["source"]).splitlines() if line and not line.startswith("#")]
    assert lines == ['token = "file:token"']
    assert json.loads(json.dumps(keeper.run().record["parameters"])) == {"token": "file:token"}
