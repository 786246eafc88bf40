"""What is masked though nobody named it: tokens by their format, and the patterns of `[redact]`."""

from __future__ import annotations

import base64
import json
import time

import pytest
from support import LOAD, Desk, code
from test_redaction_properties import in_pieces

from opsbook.config import load_settings
from opsbook.errors import UsageError
from opsbook.redaction import MASK, Redactor
from opsbook.token_patterns import LINE, why_refused

NAMES = {"web1": "127.0.8.12"}
A = "a1B2c3D4e5F6g7H8i9J0"
JWT = ".".join(
    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "x"}, {"a": 1})
)
PEM = "-----BEGIN RSA PRIVATE KEY-----\n{}-----END RSA PRIVATE KEY-----"

TOKENS = [
    (f"key AKIA{'Q7' * 8} used", f"key {MASK} used"),
    (f'aws_secret_access_key = "{A}{A}"', f'aws_secret_access_key = "{MASK}"'),
    (f'"SecretAccessKey": "{A}{A}"', f'"SecretAccessKey": "{MASK}"'),
    (f"ghp_{A}{A} x", f"{MASK} x"),
    (f"github_pat_{A}_{A}", MASK),
    (f"glpat-{A}.", f"{MASK}."),
    (f"xoxb-1234567890-{A}", MASK),
    (f"t={JWT}.{A}-_;", f"t={MASK};"),
    (f"sk_live_{A}", f"s{MASK}"),
    (f"AIza{A}{A}"[:39], MASK),
    (f"npm_{A}{A}"[:40], MASK),
    (f"pypi-{A}{A}{A}", MASK),
    (f"> Authorization: Bearer {A}\r", f"> Authorization: Bearer {MASK}\r"),
    ('{"authorization": "Basic dXNlcjpwdw=="}', f'{{"authorization": "Basic {MASK}"}}'),
    ("postgres://me:p%40ss!word@db:5432/x", f"postgres://me:{MASK}@db:5432/x"),
    ("https://:hunter22@host", f"https://:{MASK}@host"),
    (PEM.format("MIIEpAIBAAKC\n" * 4), f"-----BEGIN RSA PRIVATE KEY-----{MASK}-----END RSA PRIVATE KEY-----"),
    (json.dumps(PEM.format("Proc-Type: 4,ENCRYPTED\n\nMIIE+/=\n")), f'"-----BEGIN RSA PRIVATE KEY-----{MASK}-----END'),
    ("-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKC\ncut short", f"-----BEGIN PRIVATE KEY-----{MASK}"),
]
NONE = [
    "http://host:8080/a@b?c=d:e@f ssh://git@host/x.git mailto://x",
    "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKC\n-----END CERTIFICATE-----\n",
    "the bearer of AKIA and ghp_short, xox, eyJ, npm_config_cache, pypi-mirror, ://:@, Authorization: none",
    "task_live_migration sk_live_ -----BEGIN eyJhbGciOi.no",
]


@pytest.mark.parametrize(("text", "left"), TOKENS)
def test_a_token_known_by_its_format_is_masked_in_a_whole_and_in_pieces(text: str, left: str) -> None:
    redactor = Redactor()
    assert redactor.text(f"{text}\nnext").startswith(left)
    assert redactor.text(redactor.text(text)) == redactor.text(text)
    for size in (1, 5):
        assert in_pieces(redactor, f"{text}\nnext\n", list(range(0, len(text), size))) == redactor.text(
            f"{text}\nnext\n"
        )


@pytest.mark.parametrize("text", NONE)
def test_what_only_looks_like_a_token_keeps_every_letter(text: str) -> None:
    assert Redactor().text(text) == text
    assert in_pieces(Redactor(), text, list(range(len(text)))) == text


@pytest.mark.parametrize("text", [text for text, _ in TOKENS])
def test_with_tokens_off_nothing_is_guessed(text: str) -> None:
    assert Redactor(tokens=False).text(text) == text


def test_a_pattern_masks_what_it_finds_or_its_group_in_each_line_whatever_the_pieces() -> None:
    redactor = Redactor([r"pin=(?P<secret>\d{4})", r"^internal: .*$", "ж+"], tokens=False)
    text = "pin=1234 pin=12\nжжж internal: no\ninternal: all of it\npin=5678"
    masked = f"pin={MASK} pin=12\n{MASK} internal: no\n{MASK}\npin={MASK}"
    assert redactor.text(text) == masked
    assert in_pieces(redactor, text, list(range(0, len(text), 3))) == masked


def test_a_long_line_is_looked_at_in_portions_and_not_held_back_for_ever() -> None:
    redactor = Redactor([r"pin=\d{4}"], tokens=False)
    line = "x" * 3 * LINE + "pin=1234" + "y" * 3 * LINE
    assert redactor.text(line) == line.replace("pin=1234", MASK)
    assert in_pieces(redactor, line, list(range(0, len(line), 1000))) == line.replace("pin=1234", MASK)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "missing )"),
        ("a*", "matches an empty text"),
        (r"(a+)+$", "takes too long"),
        (r"(?:[a-z]+\s?)+:", "takes too long"),
        (r"(\w|\d)+!", "takes too long"),
        ("(x+x+)+y", "takes too long"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_quickly_with_the_reason(pattern: str, why: str) -> None:
    begun = time.thread_time()
    assert why in why_refused(pattern)
    assert time.thread_time() - begun < 5


@pytest.mark.parametrize(
    "pattern", [r"pin=\d{4}", r"(?i)password\s*[:=]\s*(?P<secret>\S+)", r"\b[0-9a-f]{32}\b", "ключ"]
)
def test_an_ordinary_pattern_is_accepted(pattern: str) -> None:
    assert why_refused(pattern) == ""


def test_the_settings_name_file_and_pattern_of_what_they_refuse(desk: Desk) -> None:
    desk.write("opsbook.toml", '[redact]\npatterns = ["fine", "(a+)+$"]\n')
    with pytest.raises(UsageError, match=r"opsbook\.toml: the pattern '\(a\+\)\+\$' under \[redact\]"):
        load_settings(desk.folder, {})
    desk.write("opsbook.toml", "[redact]\ntoken = false\n")
    with pytest.raises(UsageError) as caught:
        load_settings(desk.folder, {})
    assert "tokens" in caught.value.hint


def test_patterns_and_tokens_hold_in_a_run_and_tokens_can_be_left_alone(desk: Desk) -> None:
    settings = (desk.folder / "opsbook.toml").read_text()
    desk.write("opsbook.toml", settings + "[redact]\npatterns = ['CUST-\\d+']\ntokens = false\n")
    desk.notebook(LOAD, code(f"print('CUST-4711', 'ghp_{A}{A}')", cell_id="say"), code("%%on web\necho CUST-4712"))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    run = desk.run()
    assert run.output("say") == f"*** ghp_{A}{A}\n"
    for file in run.folder.rglob("*"):
        assert not file.is_file() or b"CUST-47" not in file.read_bytes(), file
    assert (run.folder / "hosts/web1.log").read_text() == "***\n"
