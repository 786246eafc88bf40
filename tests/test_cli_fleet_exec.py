"""`opsbook exec`: one command on some targets, through the real command line, and archived like a run."""

from __future__ import annotations

import json
import re
import subprocess

import nbformat
import pytest
from support import LOAD, Desk, code, wait_for

NAMES = {f"web{number}": f"127.0.5.{number}" for number in range(1, 5)} | {"db1": "127.0.5.9"}
MORE_HOSTS = "\n[db]\ndb1\n"


def test_what_targets_said_is_printed_once_for_all_who_said_it_and_archived_like_a_run(desk):
    script = 'case $OPSBOOK_TARGET in web3) echo other; echo aside >&2;; *) echo "a  b"; echo c;; esac'
    ran = desk.opsbook("exec", "all", "--max-fail", "1", "--reason", "to see", "--durable", "--", script)
    assert ran.code == 0, ran
    assert ran.out == "4 ok   web1, web2, web4, db1\n    a  b\n    c\n\n1 ok   web3\n    other\n    stderr | aside\n"
    assert "✓ exec succeeded in" in ran.err.splitlines()[-1]
    assert ": 5 of 5 targets" in ran.err.splitlines()[-1]
    run = desk.run()
    record = run.record
    assert re.fullmatch(r"\d{8}T\d{6}Z-exec-[0-9a-f]{6}", record["run_id"])
    assert (record["status"], record["exit_code"], record["operator_reason"]) == ("succeeded", 0, "to see")
    assert (record["runbook"]["path"], record["runbook"]["title"]) == ("exec", script[:60])
    assert record["runbook"]["git"] is None
    assert {cell["label"] for cell in record["cells"]} == {script[:60]}
    assert (record["targets"]["pattern"], record["targets"]["selected"]) == ("all", list(NAMES))
    assert [cell["state"] for cell in record["cells"]] == ["ok", "ok"]
    assert record["cells"][1]["changes"] is True
    nbformat.validate(nbformat.read(run.copy, as_version=nbformat.NO_CONVERT))
    assert [bool(intent["spool"]) for intent in run.events("intent")] == [True] * len(NAMES)
    assert sorted((run.folder / "hosts/web3.log").read_text().splitlines()) == ["aside", "other"]
    assert record["run_id"] in desk.opsbook("runs").out
    assert "case $OPSBOOK_TARGET in web3)" in desk.opsbook("runs").out
    shown = desk.opsbook("show", "last").out
    assert "exit code" in shown
    for text in (ran.err, ran.out, shown, run.copy.read_text()):
        assert "Load opsbook" not in text


def test_several_words_are_quoted_and_one_word_is_a_line_of_shell_and_a_dash_reads_stdin(desk):
    several = desk.opsbook("exec", "web1", "--read-only", "--", "printf", "%s|", "$HOME", "a b", "'", ";")
    assert several.out == "1 ok   web1\n    $HOME|a b|'|;|\n"
    single = desk.opsbook("exec", "--read-only", "web1", 'echo "$OPSBOOK_TARGET" | tr w W; true')
    assert single.out == "1 ok   web1\n    Web1\n"
    script = desk.write("script.sh", "x=7\ncat <<END\nline $x\n%%on {x}\nEND\n# the end?")
    with script.open() as source:
        read = desk.opsbook("exec", "web1", "-", "--read-only", stdin=source)
    assert read.out == "1 ok   web1\n    line 7\n    %%on {x}\n", read
    assert [run.record["cells"][1]["changes"] for run in desk.runs()] == [False, False, False]
    assert [run.events("intent") for run in desk.runs()] == [[], [], []]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("exec", "web"), "COMMAND"),
        (("exec", "web", ""), "no command"),
        (("exec", "web", "-"), "no command"),
        (("exec", "nobody", "true"), "names nothing in the inventory"),
        (("exec", "web", "--max-fail", "many", "true"), "neither a number nor a percentage"),
        (("exec", "web", "--waves", "all", "true"), "neither a number nor a percentage"),
        (("exec", "web", "--timeout", "soon", "true"), "not a duration"),
        (("exec", "web", "--durable", "--read-only", "true"), "cannot be durable"),
        (("exec", "web", "--as-user", "maya", "--no-sudo", "true"), "without sudo it cannot run as 'maya'"),
        (("exec", "web", "ls", "-l"), "put -- before the command"),
        (("exec", "-i", "none.ini", "web", "true"), "no such file"),
        (("exec", "web", "true", "--failed-from", "last"), "no run yet"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused_before_anything_starts(desk, args, words):
    ran = desk.opsbook(*args)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert desk.runs() == []
    assert desk.kernels() == []


def test_an_ssh_config_that_cannot_be_read_is_refused_before_anything_starts(desk):
    ssh = desk.folder / "home/.ssh"
    ssh.mkdir()
    (ssh / "config").write_text("Host *\nMatch nonsense\n")
    ran = desk.opsbook("exec", "web1", "true")
    assert (ran.code, ran.out, desk.runs()) == (2, "", [])
    assert "config:2: Match nonsense is not supported" in ran.err


def test_megabytes_are_printed_in_no_time_of_their_own(desk):
    ran = desk.opsbook("exec", "web1", "--read-only", "seq 200000", seconds=150)  # it took minutes once
    assert ran.code == 0
    assert ran.out.splitlines()[1:4] == ["    1", "    2", "    3"]
    assert ran.out.splitlines()[-1].strip() == "200000"


def test_an_inventory_is_needed(tmp_path):
    ran = Desk(tmp_path).opsbook("exec", "web", "true")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: targets are named and there is no inventory\nhint:  give one with -i")


def test_failures_come_first_with_their_state_and_their_reason(desk, sshd):
    sshd.inventory({**NAMES, "gone": "127.0.5.7 ansible_port=1"}, desk.folder / "hosts.ini")
    script = "[ $OPSBOOK_TARGET != web2 ] || { echo half; echo first >&2; echo no lock >&2; exit 100; }"
    ran = desk.opsbook("exec", "all", "--max-fail", "2", "--quiet", "--", script)
    assert ran.code == 1
    blocks = ran.out.rstrip("\n").split("\n\n")
    assert blocks[0] == "1 failed   web2   exit 100   no lock\n    half\n    stderr | first\n    stderr | no lock"
    assert blocks[1].startswith("1 unreachable   gone   127.0.5.7:1")
    assert blocks[2] == "4 ok   web1, web3, web4, db1"
    assert ran.err.splitlines()[0].startswith("✗ exec failed after")
    assert "2 of 6 targets failed" in ran.err
    assert f"look       opsbook logs {desk.run().folder.name} --target web2" in ran.err
    only = desk.opsbook("exec", "gone", "true")
    assert only.code == 4
    assert "could not be reached" in only.err or "limit 0" in only.err
    quiet = desk.opsbook("exec", "web1", "--quiet", "echo hidden")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_json_is_the_record_with_what_was_said(desk):
    ran = desk.opsbook("exec", "web1,db1", "--json", "--quiet", "echo out; echo err >&2")
    assert (ran.code, ran.err) == (0, "")
    said = {"stdout": "out\n", "stderr": "err\n", "truncated": False}
    assert ran.json["output"] == {"web1": said, "db1": said}
    run = desk.run_of(ran)
    assert {name: value for name, value in ran.json.items() if name not in {"copy", "output"}} == run.record


def test_flags_reach_the_command(desk):
    ran = desk.opsbook(
        "exec", "web:!db1", "--waves", "1,50%", "--parallel", "1", "--timeout", "1s", "--max-fail", "100%", "sleep 20"
    )
    assert ran.code == 1
    assert "4 timed out   web1-web4" in ran.out
    assert [event["waves"] for event in desk.run().events("waves_planned")] == [[["web1"], ["web2", "web3"], ["web4"]]]


def test_the_command_is_in_no_process_list_but_the_users_own(desk, tmp_path):
    script = desk.write("script.sh", f"echo $$ > {tmp_path}/up\nsleep 60 # Zaubernuss\n")
    with script.open() as source:
        process = desk.start("exec", "web1", "-", stdin=source)
    wait_for((tmp_path / "up").exists, seconds=30)
    try:
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "Zaubernuss" not in listed
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 143


def test_what_failed_last_time_is_selected_again(desk, tmp_path):
    (tmp_path / "bad").touch()
    script = f"[ $OPSBOOK_TARGET = web1 ] || [ ! -e {tmp_path}/bad ] || [ $OPSBOOK_TARGET = db1 ]"
    first = desk.opsbook("exec", "all", "--max-fail", "9", "--", script)
    assert first.code == 1
    failed = desk.run()
    assert {name for name, state in failed.targets.items() if state == "failed"} == {"web2", "web3", "web4"}
    (tmp_path / "bad").unlink()
    again = desk.opsbook("exec", "all:!web3", "--failed-from", "last", "--json", "--", script)
    assert again.code == 0, again
    assert again.json["parent"] == failed.folder.name
    assert again.json["targets"]["selected"] == ["web2", "web4"]
    assert again.json["targets"]["pattern"] == "all:!web3"
    assert list(again.json["targets"]["results"]) == ["web2", "web4"]
    assert f"parent      {failed.folder.name}" in desk.opsbook("show", "last").out
    nothing = desk.opsbook("exec", "all", "--failed-from", "last", "--", script)
    assert (nothing.code, nothing.out) == (2, "")
    assert f"no target failed in {again.json['run_id']}" in nothing.err
    other = desk.opsbook("exec", "db", "--failed-from", "last-failed", "true")
    assert other.code == 2
    assert "'db' names none of those that failed: web2-web4" in other.err
    runbook = desk.notebook(LOAD, code("targets().run('true')"))
    ran = desk.opsbook("run", runbook, "--failed-from", failed.folder.name, "--json")
    assert ran.json["targets"]["selected"] == ["web2", "web3", "web4"]
    assert list(ran.json["targets"]["results"]) == ["web2", "web3", "web4"]
    assert ran.json["parent"] == failed.folder.name


def test_a_target_that_failed_and_is_gone_is_named(desk, sshd):
    assert desk.opsbook("exec", "web", "--max-fail", "9", "false").code == 1
    sshd.inventory({name: NAMES[name] for name in ("web1", "db1")}, desk.folder / "hosts.ini")
    ran = desk.opsbook("exec", "all", "--failed-from", "last", "true")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: not in the inventory any more: web2-web4\nhint:  ")


def test_unchecked_host_keys_are_said_loudly_and_kept_in_the_record(desk):
    ran = desk.opsbook("exec", "web1", "--host-keys", "off", "--quiet", "echo hi")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("warning: host keys are not checked (--host-keys off)")
    assert len(ran.err.splitlines()) == 1
    assert desk.run().record["notes"] == ["host keys were not checked (--host-keys off)"]
    assert "note" in desk.opsbook("show", "last").out
    assert "host keys were not checked" in desk.opsbook("show", "last").out
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n[ssh]\nhost_keys = "off"\n')
    shown = desk.opsbook("exec", "web1", "echo hi")
    assert shown.err.startswith("warning: host keys are not checked")
    assert "host keys were not checked" in shown.err.splitlines()[-1]


def test_a_password_of_the_inventory_shows_nowhere(desk, sshd):
    sshd.inventory(NAMES, desk.folder / "hosts.ini", extra="ansible_become_password=Zaubernuss7\nabc=1\n")
    ran = desk.opsbook("exec", "web1", "--json", "echo 'Zaubernuss7!'")
    assert ran.code == 0, ran
    assert ran.json["output"]["web1"]["stdout"] == "***!\n"
    run = desk.run_of(ran)
    for file in run.folder.rglob("*"):
        assert not file.is_file() or b"Zaubernuss7" not in file.read_bytes(), file


def test_a_password_that_is_not_there_is_refused_before_anything_starts(desk):
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n[ssh]\nsudo_password = "env:NOT_SET_ANYWHERE"\n')
    ran = desk.opsbook("exec", "web1", "true")
    assert (ran.code, ran.out) == (2, "")
    assert "sudo_password under [ssh]: the environment variable NOT_SET_ANYWHERE is not set" in ran.err
    assert desk.runs() == []
    assert json.loads(desk.opsbook("targets", "web1", "--json").out)[0]["name"] == "web1"
