"""Files put in their place as somebody else, and what is left of that when it is killed or cancelled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support import wait_for
from transfers import (
    BIG,
    ODD,
    ROOT,
    mode_of,
    names,
    proxied,
    reason,
    state,
)

from opsbook.fleet import destination

pytest_plugins = ["sftp_desk"]


def needs_sudo() -> None:
    usable = ROOT and shutil.which("sudo") is not None
    if not usable or subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and sudo")


@pytest.mark.parametrize("user", [None, "nobody"])
def test_sudo_puts_a_file_in_its_place_whole_and_leaves_nothing_behind(notebook, public, user):
    needs_sudo()
    there = public / "there"
    if user:
        shutil.chown(there, user)
    name = there / ODD
    result = notebook.fleet.put(remote=name, content=BIG, sudo=True, as_user=user, mode=0o640)
    assert (state(result), next(iter(result)).stdout) == ("ok", f"put {len(BIG):,} bytes\n")
    assert (name.read_bytes(), mode_of(name), name.owner()) == (BIG, 0o640, user or "root")
    again = notebook.fleet.put(remote=name, content=BIG, sudo=True, as_user=user)
    assert next(iter(again)).stdout == "unchanged\n"
    notebook.fleet.put(remote=name, content="short", sudo=True, as_user=user)
    assert (name.read_text(), mode_of(name)) == ("short", 0o640)
    missing = notebook.fleet.put(remote=there / "none/x", content="1", sudo=True, as_user=user, check=False)
    assert (state(missing), next(iter(missing)).stderr) == ("failed", f"there is no folder {there}/none\n")
    assert reason(notebook.fleet.put(remote=there, content="1", sudo=True, check=False)).endswith("is a folder")
    assert names(there) == [ODD]
    assert names(public / "staging") == []
    assert notebook.sent() == ["put"] * 3  # the folder is found missing by what was sent


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_file_is_given_to_an_owner_and_stays_with_its_own(notebook, there):
    notebook.fleet.put(remote=there / "data", content="1", owner="nobody")
    assert (there / "data").owner() == "nobody"
    put = notebook.fleet.put(remote=there / "data", content="2")
    assert ((there / "data").owner(), (there / "data").read_text()) == ("nobody", "2")
    assert next(iter(notebook.fleet.put(remote=there / "data", content="2", owner="nobody"))).stdout == "unchanged\n"
    notebook.fleet.put(remote=there / "data", content="2", owner="12345:12346")
    assert ((there / "data").stat().st_uid, (there / "data").stat().st_gid) == (12345, 12346)
    wrong = notebook.fleet.put(remote=there / "data", content="3", owner="no-such-user", check=False)
    assert state(wrong) == "failed"
    assert ((there / "data").read_text(), names(there)) == ("2", ["data"])
    assert put.ok


EXCHANGE = """\
{0}() {{
  command {0} "$@"
  find "$folder" -maxdepth 1 -name '.opsbook-*' ! -type l -exec sh -c 'mv "$1" "$1-old"; ln -s {1} "$1"' sh {{}} ';' >&2
}}
"""
"""What the owner of the destination's folder can do behind the back of one command of the script."""


@pytest.mark.skipif(not ROOT, reason="gives files away")
@pytest.mark.parametrize(("behind", "led_to"), [("wc", "secret"), ("mkdir", "others"), ("wc", "others")])
def test_whoever_owns_the_folder_cannot_have_the_files_of_others_given_away(
    notebook, there, monkeypatch, behind, led_to
):
    secret, others, data = there.parent / "secret", there.parent / "others", there / "data"
    secret.write_text("secret")
    secret.chmod(0o600)
    others.mkdir(mode=0o700)
    data.write_text("old")
    install = EXCHANGE.format(behind, there.parent / led_to) + destination.INSTALL
    monkeypatch.setattr(destination, "INSTALL", install)
    result = notebook.fleet.put(remote=data, content="new", owner="nobody", mode=0o666, check=False)
    assert (secret.owner(), mode_of(secret), secret.read_text()) == ("root", 0o600, "secret")
    assert (others.owner(), mode_of(others), names(others)) == ("root", 0o700, [])
    if behind == "wc":
        assert (state(result), data.read_text(), data.owner(), mode_of(data)) == ("ok", "new", "nobody", 0o666)
    else:
        assert (state(result), data.read_text(), data.owner()) == ("failed", "old", "root")
        assert next(iter(result)).stderr.endswith(f" was exchanged in {there}\n")


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_path_that_leads_elsewhere_after_the_look_keeps_no_owner_and_no_mode(notebook, there, monkeypatch):
    (there / "his").mkdir()
    (there / "his" / "data").write_text("his")
    (there / "his" / "data").chmod(0o666)
    shutil.chown(there / "his" / "data", "nobody")
    (there / "roots").mkdir()
    (there / "roots" / "data").write_text("old")
    exchange = 'mv "$folder" "$folder-old"; ln -s roots "$folder"\n'
    monkeypatch.setattr(destination, "INSTALL", exchange + destination.INSTALL)
    result = notebook.fleet.put(remote=there / "his" / "data", content="new", owner=":root", check=False)
    assert (state(result), names(there / "roots")) == ("failed", ["data"])
    assert next(iter(result)).stderr == f"somebody else changed {there}/his/data meanwhile\n"
    assert ((there / "roots" / "data").read_text(), (there / "roots" / "data").owner()) == ("old", "root")


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_ends_while_it_is_put_in_its_place_leaves_nothing_behind(notebook, there, monkeypatch):
    (there / "data").write_text("old")
    monkeypatch.setattr(destination, "INSTALL", "chown() { sleep 50; }\n" + destination.INSTALL)
    result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", timeout=2, check=False)
    assert (state(result), names(there), (there / "data").read_text()) == ("timed_out", ["data"], "old"), reason(result)


UNTIDY = "trap() {{ :; }}\nchown() {{ echo $$ > {0}-part; mv {0}-part {0}; sleep {1}; }}\n"
"""A script that tidies nothing up, as one that is killed, and says which process it is when it is in the middle."""


def hold(monkeypatch: pytest.MonkeyPatch, there: Path, *, seconds: int = 50, more: str = "") -> Path:
    """Let what puts a file in its place hang before its end; return the file that has its process's number then."""
    begun = there.parent / "begun"
    monkeypatch.setattr(destination, "INSTALL", UNTIDY.format(begun, seconds) + more + destination.INSTALL)
    return begun


def while_held(begun: Path, work: Callable[[], object]) -> threading.Thread:
    """Do something in a thread as soon as a script hangs."""
    thread = threading.Thread(target=lambda: (wait_for(begun.exists, seconds=30), work()))
    thread.start()
    return thread


def kill_script(begun: Path) -> None:
    """Kill the script that hangs, and all it started."""
    os.killpg(os.getpgid(int(begun.read_text())), signal.SIGKILL)


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_a_killed_script_left_is_taken_back(notebook, there, monkeypatch):
    (there / "data").write_text("old")
    begun = hold(monkeypatch, there)
    killer = while_held(begun, lambda: kill_script(begun))
    result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", check=False)
    killer.join(30)
    assert (state(result), reason(result)) == ("failed", "killed by signal KILL")
    assert ((there / "data").read_text(), names(there)) == ("old", ["data"])


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_a_killed_script_left_is_named_when_somebody_exchanged_it(notebook, there, monkeypatch):
    others = there.parent / "others"
    others.mkdir(mode=0o700)
    (others / "new").write_text("secret")
    begun = hold(monkeypatch, there, more=EXCHANGE.format("wc", others))
    killer = while_held(begun, lambda: kill_script(begun))
    result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", check=False)
    killer.join(30)
    (link,) = (path for path in there.iterdir() if path.is_symlink())
    assert (state(result), reason(result)) == ("failed", f"killed by signal KILL; {link} may be left there")
    assert (names(others), (others / "new").read_text()) == (["new"], "secret")


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_a_cancelled_script_left_is_named(notebook, there, monkeypatch):
    begun = hold(monkeypatch, there)
    stopper = while_held(begun, lambda: notebook.session.cancel(hard=True))
    with pytest.raises(KeyboardInterrupt):
        notebook.fleet.put(remote=there / "data", content="new", owner="nobody")
    stopper.join(30)
    (ended,) = (event for event in notebook.events if type(event).__name__ == "TargetEnded")
    (part,) = names(there)
    assert (ended.state.value, ended.reason.endswith(f"; {there}/{part} may be left there")) == ("cancelled", True)


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_script_whose_link_was_lost_can_put_nothing_in_its_place_any_more(server, there, monkeypatch):
    (there / "data").write_text("old")
    begun = hold(monkeypatch, there, seconds=4)
    with proxied(server) as (notebook, proxy):
        cutter = while_held(begun, proxy.cut)
        result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", check=False)
        cutter.join(30)
    assert (state(result), names(there)) == ("lost", ["data"])
    wait_for(lambda: not Path("/proc", begun.read_text().strip()).exists(), seconds=30)
    assert ((there / "data").read_text(), names(there)) == ("old", ["data"])


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_staged_file_is_taken_back_over_a_slow_link_after_a_cancel(server, there, public, monkeypatch):
    begun = hold(monkeypatch, there)
    with proxied(server) as (notebook, proxy):

        def stop() -> None:
            assert names(public / "staging")
            proxy._slow_s = 0.25
            notebook.session.cancel(hard=True)

        stopper = while_held(begun, stop)
        with pytest.raises(KeyboardInterrupt):
            notebook.fleet.put(remote=there / "data", content="new", owner="nobody")
        stopper.join(30)
    (ended,) = (event for event in notebook.events if type(event).__name__ == "TargetEnded")
    left = [f"{public}/staging/{name}" for name in names(public / "staging")]
    assert (left, "staging" in ended.reason) == ([], False)
