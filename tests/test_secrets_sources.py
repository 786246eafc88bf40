"""Where secrets come from: what is typed, what commands print, files, `[env]`, and literals that are refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import pty
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from support import LOAD, Desk, Ran, code, finish, parameters

from opsbook.config import EnvSettings, load_settings
from opsbook.errors import SecretError, UsageError
from opsbook.model.message import SecretValue
from opsbook.redaction import MASK, Secret
from opsbook.runbook.parameters import bind, read_parameters
from opsbook.secrets import resolve as resolving
from opsbook.secrets.resolve import Resolver, is_exposed

VALUE = "typed-by-nobody-else"
NAMES = {"web1": "127.0.0.2"}


def counting(folder: Path, value: str = VALUE) -> str:
    """A reference to a command that counts how often it is run."""
    (folder / "give").write_text(f"echo run >> {folder}/count\necho {value}\n")
    return f"cmd:sh {folder}/give"


def runs(folder: Path) -> int:
    file = folder / "count"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_what_is_typed_is_asked_for_once_and_by_what_the_reference_says() -> None:
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return VALUE

    resolver = Resolver(answer)
    resolver.ask_now("prompt:PIN of the safe", None, "env:NOT_ASKED_FOR")
    assert [resolver.resolve("prompt:PIN of the safe") for _ in range(2)] == [VALUE, VALUE]
    assert resolver.resolve("prompt:") == VALUE
    assert questions == ["PIN of the safe", "Secret"]
    resolver.ask_no_more()
    assert resolver.resolve("prompt:PIN of the safe") == VALUE
    with pytest.raises(SecretError, match="prompt:another has to be typed at a terminal"):
        resolver.resolve("prompt:another")


def test_too_little_typed_is_refused_and_not_shown() -> None:
    with pytest.raises(SecretError, match="prompt:PIN is shorter than 4 characters") as caught:
        Resolver(lambda _: "abc").resolve("prompt:PIN")
    assert "abc" not in f"{caught.value!r}"


def test_a_command_run_before_the_run_serves_its_first_use_while_that_is_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, resolver = counting(tmp_path), Resolver()
    assert [resolver.resolve_early(reference), resolver.resolve(reference)] == [VALUE, VALUE]
    assert runs(tmp_path) == 1
    assert resolver.resolve(reference) == VALUE
    assert runs(tmp_path) == 2
    resolver.resolve_early(reference)
    monkeypatch.setattr(resolving, "FRESH_S", 0.0)
    assert resolver.resolve(reference) == VALUE
    assert runs(tmp_path) == 4


def test_a_file_is_exposed_when_everybody_can_come_to_it_and_read_it() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        file = folder / "token"
        file.write_text(VALUE)
        for folder_mode, mode, exposed in ((0o711, 0o644, True), (0o711, 0o640, False), (0o700, 0o644, False)):
            folder.chmod(folder_mode)
            file.chmod(mode)
            assert is_exposed(f"file:{file}") is exposed, (folder_mode, mode)
        (folder / "link").symlink_to(file)
        assert not is_exposed(f"file:{folder}/nothing")
        assert not is_exposed(f"env:{file}")
    finally:
        shutil.rmtree(folder)


def test_a_secret_can_be_copied_but_in_no_way_written_out() -> None:
    secret = Secret("env:TOKEN", lambda _: VALUE)
    held = {"token": secret}
    assert copy.deepcopy(held)["token"] is secret
    assert copy.copy(secret) is secret
    assert f"{held} {[secret]!r} {secret!s:>9} {secret!a}".count(MASK) == 4
    for write in (pickle.dumps, json.dumps, msgspec.json.encode, len, bytes, vars, iter, int):
        with pytest.raises(TypeError):
            write(secret)  # type: ignore[operator]
    assert VALUE not in str([getattr(secret, name, None) for name in dir(secret) if name != "reveal"])
    assert bool(secret)
    assert secret != Secret("env:TOKEN", lambda _: VALUE)


def test_a_message_with_a_value_does_not_show_it_in_a_traceback() -> None:
    assert VALUE not in repr(SecretValue(ticket=1, value=VALUE))
    assert VALUE in msgspec.json.encode(SecretValue(ticket=1, value=VALUE)).decode()


def test_a_secret_to_be_typed_is_named_by_its_parameter() -> None:
    specs = read_parameters('a: Secret = "prompt:"\nb: Secret = "prompt:PIN"\nc: Secret')
    binding = bind(specs, {"c": "prompt:"}, {}, runbook="book.ipynb")
    assert binding.values == {"a": "prompt:a", "b": "prompt:PIN", "c": "prompt:c"}


def settings_of(folder: Path, text: str) -> EnvSettings:
    (folder / "opsbook.toml").write_text(text)
    return load_settings(folder, {}).env


def test_variables_are_set_by_reference_and_a_file_is_found_from_the_settings_own_folder(tmp_path: Path) -> None:
    env = settings_of(
        tmp_path, '[env]\nset = {URL = "file:data.db"}\n[env.secrets]\nA = "env:DD"\nB = "file:keys/b"\nC = "prompt:"\n'
    )
    assert env.references == {"A": "env:DD", "B": f"file:{tmp_path}/keys/b", "C": "prompt:C"}
    assert env.set_ == {"URL": "file:data.db"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f'secrets = {{A = "{VALUE}"}}', "A under [env] secrets is given by reference, not by value"),
        ('secrets = {"A B" = "env:X"}', "'A B' under [env] secrets cannot be a notebook's variable"),
        ('secrets = {OPSBOOK_X = "env:X"}', "'OPSBOOK_X' under [env] secrets cannot be"),
        ('set = {A = "vault:x#y"}', "A under [env] set would be set to the reference itself"),
        ('set = {A = "1"}\nsecrets = {A = "env:X"}', "A stands under [env] set and under [env] secrets"),
        ("secrets = 5", "object"),
        ("secrets = {A = 5}", "str"),
    ],
)
def test_a_wrong_variable_is_refused_without_its_value(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings_of(tmp_path, f"[env]\n{text}\n")
    assert what in str(caught.value)
    assert VALUE not in f"{caught.value!r}"


def on_a_terminal(desk: Desk, *args: str, answers: tuple[tuple[str, str], ...], seconds: float = 90) -> tuple[Ran, str]:
    """Run a command at a terminal of its own, answer what it asks, and return what came of it and what was seen."""
    ours, theirs = pty.openpty()
    process = desk.fork(*args, stdin=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen, left, deadline = "", list(answers), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:
                break  # nobody holds the other end any more
            seen += data.decode(errors="replace")
        if left and left[0][0] in seen:
            os.write(ours, f"{left.pop(0)[1]}\n".encode())
    os.close(ours)
    assert not left, seen
    return finish(process), seen


def test_a_typed_secret_is_asked_for_before_the_run_and_shown_and_kept_nowhere(desk: Desk) -> None:
    marker = desk.folder / "fixed"
    desk.notebook(
        LOAD,
        parameters('pin: Secret = "prompt:PIN \\u001b[31mof the safe"\ntoken: Secret = "prompt:"'),
        code(
            "print(pin.reveal(), pin.reveal(), len(token.reveal()), len(secret('prompt:3rd').reveal()))", cell_id="say"
        ),
        code("secret('prompt:never asked')", "skip"),
        code(f"import pathlib\nassert pathlib.Path({str(marker)!r}).exists()", cell_id="stop"),
    )
    answers = (("PIN of the safe: ", VALUE), ("token: ", "second-secret"), ("3rd: ", "third-one"))
    ran, seen = on_a_terminal(desk, "run", "book.ipynb", "--yes", answers=answers)
    assert ran.code == 1, (ran, seen)
    marker.touch()
    assert desk.opsbook("resume", "last", "--yes").code == 2
    ran, again = on_a_terminal(desk, "resume", "last", "--yes", answers=answers)
    assert ran.code == 0, (ran, again)
    assert [run.output("say") for run in desk.runs()] == ["*** *** 13 9\n"] * 2
    assert (seen.count("PIN of the safe"), seen.count("token: ")) == (1, 1)
    everything = seen + again + ran.out + "".join(read(file) for file in desk.folder.rglob("*"))
    assert VALUE not in everything
    assert "second-secret" not in everything
    assert "third-one" not in everything
    assert "never asked: " not in everything


def read(file: Path) -> str:
    return file.read_text(errors="replace") if stat.S_ISREG(file.lstat().st_mode) else ""


@pytest.mark.parametrize(
    ("reference", "why", "hint"),
    [
        ("prompt:PIN", "prompt:PIN has to be typed at a terminal", "env:NAME"),
        ("cmd:sh -c 'exit 7'", "the secret's command failed with exit code 7", "give another with -p pin="),
    ],
)
def test_a_secret_that_cannot_be_had_is_refused_before_anything_runs(
    desk: Desk, reference: str, why: str, hint: str
) -> None:
    desk.notebook(LOAD, parameters(f'pin: Secret = "{reference}"'))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 2
    assert f"error: parameter 'pin': {why}" in ran.err
    assert hint in ran.err
    assert desk.runs() == []


def test_a_literal_for_a_secret_is_refused_and_lands_nowhere(desk: Desk) -> None:
    desk.notebook(LOAD, parameters("token: Secret"))
    values = desk.write("values.yml", "token: from-the-file-in-clear\n")
    for given in (("-p", f"token={VALUE}"), ("-p", f"token=nonsense:{VALUE}"), ("-f", str(values))):
        ran = desk.opsbook("run", "book.ipynb", *given)
        assert ran.code == 2
        assert "parameter 'token' is a secret: a reference is needed, not a value" in ran.err
        assert not [text for text in (VALUE, "in-clear") if text in ran.out + ran.err]
    assert desk.runs() == []
    values.unlink()
    asked = desk.folder / "processes"  # what the test itself keeps of every argument list
    assert not [file for file in desk.folder.rglob("*") if file != asked and VALUE in read(file)]


def test_a_commands_secret_that_stands_in_the_runbook_is_masked_where_it_is_kept(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        parameters(f'token: Secret = "{counting(desk.folder)}"'),
        code(f"assert token.reveal() == {VALUE!r}", cell_id="use"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    assert runs(desk.folder) == 1
    run = desk.run()
    assert run.record["runbook"]["masked"] is True
    assert not [file for file in run.folder.rglob("*") if VALUE in read(file)]


def test_a_notebook_in_jupyter_has_the_teams_variables_too(tmp_path: Path) -> None:
    settings_of(tmp_path, '[env]\nset = {REGION = "eu"}\n[env.secrets]\nAPI_TOKEN = "file:token"\n')
    (tmp_path / "token").write_text(f"{VALUE}\n")
    script = (
        "from IPython.core.interactiveshell import InteractiveShell as S; import os; s = S.instance(); "
        "s.run_line_magic('load_ext', 'opsbook'); print(os.environ['REGION'], os.environ['API_TOKEN'])"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"eu {VALUE}\n", done.stderr
