"""The demo fleet from outside: its folder, its door, the commands it runs."""

from __future__ import annotations

import io
import socket
import stat
import threading

import paramiko
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from demo_hosts import (
    READ_BOOT_ID,
    answer,
    ask_all,
    connected,
    exit_signals,
    host_named,
    is_running,
    opened,
    say,
    send_signal,
    wait_for,
)

from opsbook.demo import DemoFleet
from opsbook.errors import OpsbookError

pytest_plugins = ["demo_desk"]


def test_everything_is_in_one_folder_that_nobody_else_can_read(fleet):
    folder = fleet.identity.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(fleet.identity.stat().st_mode) == 0o600
    assert {path.parent for path in (fleet.inventory, fleet.known_hosts)} == {folder}
    assert {host.folder.parent for host in fleet.hosts} == {folder / "hosts"}


def test_the_fleet_is_eight_hosts_in_three_stacks_and_two_roles(fleet):
    groups = {}
    for host in fleet.hosts:
        for group in host.groups:
            groups.setdefault(group, []).append(host.name)
    assert groups == {
        "prod": ["web1", "web2", "web3", "db1", "db2"],
        "staging": ["web4", "db3"],
        "dev": ["dev1"],
        "web": ["web1", "web2", "web3", "web4"],
        "db": ["db1", "db2", "db3"],
    }


def test_the_inventory_names_every_host_with_its_port_and_the_way_in(fleet):
    text = fleet.inventory.read_text()
    for host in fleet.hosts:
        assert f"{host.name} ansible_host=127.0.0.1 ansible_port={host.port}\n" in text
    assert "[all:vars]\nansible_user=root\n" in text
    assert f"ansible_ssh_private_key_file={fleet.identity}\n" in text
    assert f"ansible_ssh_common_args='-o UserKnownHostsFile={fleet.known_hosts} " in text


def test_it_listens_on_loopback_only(fleet):
    ports = {host.port for host in fleet.hosts}
    listening = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    mine = [address for address in listening if address.port in ports]
    assert len(mine) == len(ports) == 8
    assert {address.ip for address in mine} == {"127.0.0.1"}


def test_a_password_is_refused(fleet):
    with paramiko.Transport(("127.0.0.1", host_named(fleet, "web1").port)) as transport:
        transport.start_client(timeout=5)
        with pytest.raises(paramiko.BadAuthenticationType) as refusal:
            transport.auth_password("root", "secret")
        assert refusal.value.allowed_types == ["publickey"]


@pytest.mark.parametrize(("user", "own_key"), [("root", False), ("admin", True)])
def test_another_key_or_another_user_is_refused(fleet, user, own_key):
    other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    text = fleet.identity.read_text() if own_key else other
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(text))
    with paramiko.Transport(("127.0.0.1", host_named(fleet, "web1").port)) as transport:
        transport.start_client(timeout=5)
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey(user, key)
        with pytest.raises(paramiko.SSHException):
            transport.open_session(timeout=5)


def test_terminals_shells_subsystems_and_forwarding_are_refused(fleet):
    with connected(fleet, "web1") as client:
        transport = client.get_transport()
        for ask in (paramiko.Channel.get_pty, paramiko.Channel.invoke_shell):
            with pytest.raises(paramiko.SSHException):
                ask(transport.open_session(timeout=5))
        with pytest.raises(paramiko.SSHException):
            transport.open_session(timeout=5).invoke_subsystem("sftp")
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 2), timeout=5)
        with pytest.raises(paramiko.SSHException):
            transport.request_port_forward("127.0.0.1", 0)
        assert answer(client, "echo still here") == (0, "still here\n", "")


@pytest.mark.parametrize("name", ["with space", "with:colon", "with'quote"])
def test_a_folder_that_would_not_survive_quoting_is_refused_with_a_hint(tmp_path, name):
    with pytest.raises(OpsbookError) as refusal:
        DemoFleet.start(tmp_path / name)
    assert "path has no spaces" in refusal.value.hint
    assert not (tmp_path / name).exists()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(OpsbookError, match="is not empty") as refusal:
        DemoFleet.start(tmp_path)
    assert refusal.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_output_error_output_and_exit_status_come_back(fleet):
    with connected(fleet, "web1") as client:
        assert answer(client, "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")


def test_a_command_finds_a_clean_environment_and_its_own_folder(fleet, monkeypatch):
    monkeypatch.setenv("OPSBOOK_CANARY", "leaked")
    folder = host_named(fleet, "web1").folder
    out = say(fleet, "web1", "pwd; env")
    lines = out.splitlines()
    assert lines[0] == str(folder)
    assert {f"HOME={folder}", "LANG=C.UTF-8", "USER=root", f"OPSBOOK_DEMO_HOST={folder}"} <= set(lines)
    assert f"PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin" in lines
    assert "CANARY" not in out


def test_only_the_language_is_taken_from_the_clients_environment(fleet):
    with connected(fleet, "web1") as client:
        channel = client.get_transport().open_session(timeout=5)
        for name, value in {"LC_ALL": "C", "PATH": "/nowhere", "FOO": "bar"}.items():
            channel.set_environment_variable(name, value)
        channel.exec_command('echo "$LC_ALL ${FOO-unset}"; uname -n')
        assert channel.makefile("rb").read() == b"C unset\nweb1\n"


def test_a_process_ended_by_a_signal_is_told_as_exit_signal(fleet):
    with connected(fleet, "web1") as client:
        seen = exit_signals(client)
        assert answer(client, "kill -KILL $$")[0] == -1
        assert seen == ["KILL"]


def test_a_signal_request_reaches_the_whole_process_group(fleet):
    with connected(fleet, "web1") as client:
        seen = exit_signals(client)
        channel = opened(client, "sleep 30 & echo $!; wait")
        child = int(channel.makefile("r").readline())
        send_signal(channel, "TERM")
        assert channel.recv_exit_status() == -1
        assert seen == ["TERM"]
        wait_for(lambda: not is_running(child))


def test_a_script_on_standard_input_runs_while_the_input_stays_open(fleet):
    script = "echo one; read -r line || :; echo two\n"
    with connected(fleet, "web1") as client:
        channel = opened(client, f"exec sh -c 's=$(head -c {len(script)}); eval \"$s\"'")
        channel.sendall(script.encode())
        lines = channel.makefile("r")
        assert lines.readline() == "one\n"
        assert not channel.exit_status_ready()
        channel.sendall(b"go on\n")
        assert lines.read() == b"two\n"
        assert channel.recv_exit_status() == 0


def test_more_than_a_window_flows_both_ways_and_waits_for_its_reader(fleet):
    size = 5_000_000
    with connected(fleet, "web1") as client:
        channel = opened(client, "sleep 0.2; wc -c; head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2")
        channel.sendall(b"x" * size)
        channel.shutdown_write()
        errors = []
        reader = threading.Thread(target=lambda: errors.append(channel.makefile_stderr("rb").read()))
        reader.start()
        out = channel.makefile("rb").read()
        reader.join()
        count, _, zeros = out.partition(b"\n")
        assert int(count) == size
        assert len(zeros) == size
        assert len(errors[0]) == 3_000_000
        assert channel.recv_exit_status() == 0


def test_input_that_nobody_reads_does_not_hold_the_command(fleet):
    with connected(fleet, "web1") as client:
        channel = opened(client, "exec <&-; sleep 0.3; echo done")
        channel.sendall(b"x" * 3_000_000)
        assert channel.makefile("rb").read() == b"done\n"
        assert channel.recv_exit_status() == 0


def test_many_channels_share_one_connection(fleet):
    with connected(fleet, "web1") as client:
        channels = [opened(client, f"sleep 0.2; echo {number}") for number in range(12)]
        assert [int(channel.makefile("rb").read()) for channel in channels] == list(range(12))


def test_eight_hosts_answer_at_once_each_for_itself(fleet):
    names = [host.name for host in fleet.hosts]
    answers = {name: out.split() for name, out in ask_all(fleet, names, f"hostname; {READ_BOOT_ID}").items()}
    assert [hostname for hostname, _ in answers.values()] == names
    assert len({boot_id for _, boot_id in answers.values()}) == 8


def test_a_lost_link_leaves_the_command_running(fleet):
    proof = host_named(fleet, "web1").folder / "survived"
    with connected(fleet, "web1") as client:
        opened(client, f"sleep 0.3; touch {proof}").settimeout(1)
        client.get_transport().sock.shutdown(socket.SHUT_RDWR)
    assert not proof.exists()
    wait_for(proof.exists)


def test_a_closed_channel_leaves_the_command_running_without_its_pipes(fleet):
    folder = host_named(fleet, "web1").folder
    with connected(fleet, "web1") as client:
        channel = opened(client, "trap 'touch piped' PIPE; echo started; cat; sleep 0.2; echo late; touch went-on")
        assert channel.recv(8) == b"started\n"
        channel.close()
        wait_for((folder / "went-on").exists)
        assert (folder / "piped").exists()
