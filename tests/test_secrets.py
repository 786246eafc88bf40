"""Secrets: references resolved without a trace, a type that never shows itself, and the one redactor."""

from __future__ import annotations

import base64
import html
import json
import os
import pickle
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opsbook.errors import SecretError
from opsbook.model.run import CellError, CellRecord, CellState
from opsbook.redaction import MASK, SHORTEST, Redactor, Secret, is_reference
from opsbook.secrets import resolve as resolving
from opsbook.secrets.resolve import Resolver, resolve

FUZZ = settings(max_examples=150, deadline=None, database=None)
VALUE = "tr0ub4dor&3"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (VALUE, VALUE),
        (f"{VALUE}\n", VALUE),
        (f"{VALUE}\r\n", VALUE),
        (f"{VALUE}\n\n", f"{VALUE}\n"),
        (f" {VALUE} ", f" {VALUE} "),
        ("gehöim-ключ", "gehöim-ключ"),
        ("line one\nline two\n", "line one\nline two"),
    ],
)
def test_a_reference_gives_its_value_without_the_last_newline(
    content: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content.encode())
    monkeypatch.setenv("TOKEN", content)
    assert resolve("env:TOKEN") == value
    assert resolve(f"file:{file}") == value
    assert resolve(f"cmd:cat {shlex.quote(str(file))}") == value


def test_a_file_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text(VALUE)
    assert resolve("file:~/token") == VALUE


def test_a_command_is_read_by_no_shell_and_has_no_input(tmp_path: Path) -> None:
    assert resolve(f"cmd:printf '%s' '$HOME;touch {tmp_path}/x'") == f"$HOME;touch {tmp_path}/x"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SecretError, match="shorter than"):
        resolve("cmd:cat")


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("env:NOT_SET", "the environment variable NOT_SET is not set"),
        ("env:", "by reference, not by value"),
        ("file:/nowhere/at/all", "No such file or directory"),
        ("file:/", "Is a directory"),
        ("file:~nobody-of-that-name/token", ""),
        ("file:a\0b", ""),
        ("cmd:", ""),
        ("cmd: ", ""),
        ("cmd:'open", "cannot be run"),
        ("cmd:no-such-command-anywhere", "cannot be run"),
        ("cmd:sh -c 'exit 7'", "exit code 7"),
        ("prompt:pin", "has to be typed at a terminal"),
        ("prompt:", "has to be typed at a terminal"),
        ("nonsense:x", "cannot resolve nonsense: references"),
    ],
)
def test_what_cannot_be_resolved_is_a_secret_error(reference: str, what: str) -> None:
    with pytest.raises(SecretError) as caught:
        resolve(reference)
    assert what in str(caught.value)


def test_no_error_carries_the_value_or_a_commands_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_bytes(VALUE.encode() + b"\xff")
    monkeypatch.setenv("SHORT", "abc")
    (tmp_path / "leak").write_text(f"echo {VALUE}; echo {VALUE} >&2; exit 3")
    for reference in (f"file:{file}", f"cmd:cat {file}", f"cmd:sh {tmp_path}/leak", "env:SHORT", VALUE):
        with pytest.raises(SecretError) as caught:
            resolve(reference)
        shown = f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.__cause__!r}"
        assert VALUE not in shown
        assert "abc" not in shown


@pytest.mark.parametrize("value", ["", "a", "abc", "abc\n"])
def test_a_value_too_short_to_mask_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", value)
    with pytest.raises(SecretError, match="shorter than 4 characters"):
        resolve("env:TOKEN")


def test_a_value_that_is_not_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", b"ab\xffcdef".decode("utf-8", "surrogateescape"))
    with pytest.raises(SecretError):
        resolve("env:TOKEN")


def test_a_command_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "COMMAND_S", 0.2)
    began = time.monotonic()
    with pytest.raises(SecretError, match="took longer than"):
        resolve(f"cmd:{sys.executable} -c 'import time; time.sleep(20)'")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("env:TOKEN", True),
        ("file:/x", True),
        ("cmd:pass show x", True),
        ("vault:a/b#c", True),
        ("prompt:pin", True),
        ("prompt:", True),
        ("vault:", False),
        ("env:", False),
        ("env", False),
        ("http://x", False),
        (VALUE, False),
        ("", False),
        (None, False),
        (5, False),
    ],
)
def test_a_reference_is_known_by_its_scheme(text: object, is_one: bool) -> None:  # noqa: FBT001  a table's column
    assert is_reference(text) is is_one


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret("env:TOKEN", lambda _: VALUE)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret:>20}", "%s" % secret, f"{[secret]}", f"{secret!r:>9}"]  # noqa: UP031  that form too
    assert VALUE not in " ".join(shown)
    assert str(secret) == MASK
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_a_secret_is_resolved_when_it_is_revealed_and_each_time() -> None:
    asked: list[str] = []

    def answer(reference: str) -> str:
        asked.append(reference)
        return VALUE

    secret = Secret("env:TOKEN", answer)
    assert asked == []
    assert (secret.reveal(), secret.reveal()) == (VALUE, VALUE)
    assert asked == ["env:TOKEN", "env:TOKEN"]


def test_a_secret_that_is_too_short_is_not_revealed() -> None:
    with pytest.raises(SecretError, match="shorter than"):
        Secret("env:PIN", lambda _: "123").reveal()


def masked(value: str, text: str) -> str:
    redactor = Redactor()
    redactor.add(value)
    return redactor.text(text)


AWKWARD = ["p<ss&w'ord\"", "back\\slash", "tab\there", "it's", "größe-ключ", "a b c d", "$HOME`id`", VALUE, "a/b/c/d"]


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize(
    "form",
    [
        str,
        repr,
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        shlex.quote,
        html.escape,
        lambda value: html.escape(value, quote=False),
        lambda value: quote(value, safe=""),
        lambda value: value.encode().hex(),
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    ],
    ids=["plain", "repr", "json", "json-utf8", "shell", "html", "html-text", "url", "hex", "base64", "base64-url"],
)
def test_a_value_is_masked_in_every_form_a_program_prints(value: str, form: Any) -> None:
    shown = form(value)
    assert MASK in masked(value, f"before {shown} after")
    assert shown not in masked(value, f"before {shown} after")
    assert value not in masked(value, f"before {shown} after")


SECRETS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="*"), min_size=SHORTEST, max_size=20)


@FUZZ
@given(value=SECRETS, before=st.text(max_size=10), after=st.text(max_size=10))
@example(value="aaaa", before="a", after="a")
def test_no_text_holds_a_known_value(value: str, before: str, after: str) -> None:
    left = masked(value, before + value + after)
    assert MASK in left
    assert value not in left


@FUZZ
@given(value=SECRETS, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_a_value_inside_a_longer_base64_text_is_masked(value: str, before: bytes, after: bytes) -> None:
    coded = base64.b64encode(before + value.encode() + after).decode()
    assert MASK in masked(value, coded)


def test_each_line_of_a_value_is_masked_but_no_word_that_is_too_short() -> None:
    key = "-----BEGIN KEY-----\nabcdefgh\nxy\n-----END KEY-----\n"
    assert masked(key, "found abcdefgh here") == f"found {MASK} here"
    assert masked(key, "xylophone") == "xylophone"


def test_the_longest_of_overlapping_values_is_masked_as_one() -> None:
    redactor = Redactor()
    for value in ("secret", "secret-and-more"):
        redactor.add(value)
        redactor.add(value)
    assert redactor.text("a secret-and-more b secret c") == f"a {MASK} b {MASK} c"


def test_a_redactor_that_knows_nothing_changes_nothing() -> None:
    tree = {"a": ["b", 1, None, 2.5, True], "c": {"d": "größe \U0001f427"}}
    assert Redactor().text("größe \U0001f427") == "größe \U0001f427"
    assert Redactor().clean(tree) == tree


def test_a_tree_is_masked_in_values_and_keys_and_keeps_its_shape() -> None:
    redactor = Redactor()
    redactor.add(VALUE)
    tree = {"a": [VALUE, 1, None, {"b": f"x{VALUE}y"}], VALUE: 2.5, "c": (VALUE, True), 7: "seven"}
    assert redactor.clean(tree) == {"a": [MASK, 1, None, {"b": f"x{MASK}y"}], MASK: 2.5, "c": (MASK, True), 7: "seven"}
    assert VALUE in tree


def test_a_value_of_ours_is_masked_in_its_text_and_never_in_what_holds_it_together() -> None:
    redactor = Redactor()
    for value in (VALUE, "failed", "cell-1", "2026", "text"):
        redactor.add(value)
    error = CellError(name="ValueError", text=f"{VALUE} failed")
    at = datetime(2026, 11, 20, tzinfo=UTC)
    cell = CellRecord(id="cell-1", index=2026, label=f"Use {VALUE}", state=CellState.FAILED, error=error, started_at=at)
    clean = redactor.clean(cell)
    assert clean == CellRecord(
        id="cell-1",
        index=2026,
        label=f"Use {MASK}",
        state=CellState.FAILED,
        error=CellError(name="ValueError", text=f"{MASK} {MASK}"),
        started_at=at,
    )
    assert clean.state is CellState.FAILED
    assert cell.label == f"Use {VALUE}"


def test_a_value_that_is_not_text_does_not_break_the_redactor() -> None:
    broken = os.fsdecode(b"ab\xffcdef")
    assert masked(broken, "fine") == "fine"
    assert broken not in masked(broken, f"x {broken} y")


def test_a_secret_comes_from_a_pipe_once_and_serves_to_the_end_of_the_run(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"exec 3>{pipe}; printf hunter >&3; sleep 0.3; echo 22 >&3"]) as process:
        resolver = Resolver()
        value = resolver.resolve(f"file:{pipe}")
        process.kill()
    assert value == "hunter22"
    assert resolver.resolve_early(f"file:{pipe}") == "hunter22"


@pytest.mark.parametrize("writes", ["", "exec 3>{}; sleep 5", "exec 3>{}; echo hunter22 >&3; sleep 5"])
def test_a_pipe_that_does_not_end_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(resolving, "STREAM_S", 0.4)
    with subprocess.Popen(["sh", "-c", writes.format(pipe)]) as process:
        begun = time.monotonic()
        with pytest.raises(SecretError, match=r"nothing came from .* in 0.4 s") as caught:
            resolve(f"file:{pipe}")
        assert time.monotonic() - begun < 4
        assert "hunter22" not in str(caught.value)
        process.kill()
