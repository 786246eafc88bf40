"""The demo fleet, over the wire, with a plain SSH client: nothing here knows how the server is built."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko.common import MSG_CHANNEL_REQUEST, cMSG_CHANNEL_REQUEST

from opsbook.demo import DemoFleet, DemoHost
from opsbook.errors import OpsbookError

LOCKED = "E: Could not get lock /var/lib/dpkg/lock-frontend"
READ_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoFleet]:
    with DemoFleet.start(tmp_path_factory.mktemp("demo") / "fleet") as started:
        yield started


def host_named(fleet: DemoFleet, name: str) -> DemoHost:
    return next(host for host in fleet.hosts if host.name == name)


@contextlib.contextmanager
def connected(fleet: DemoFleet, name: str) -> Iterator[paramiko.SSHClient]:
    """Log in as the inventory says: the fleet's key, the fleet's known host keys, nothing of our own."""
    client = paramiko.SSHClient()
    client.load_host_keys(str(fleet.known_hosts))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(
            "127.0.0.1",
            port=host_named(fleet, name).port,
            username="root",
            key_filename=str(fleet.identity),
            allow_agent=False,
            look_for_keys=False,
            timeout=5,
            banner_timeout=5,
            auth_timeout=5,
        )
        client.get_transport().sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client
    finally:
        if (transport := client.get_transport()) is not None:
            with contextlib.suppress(OSError):  # wakes its reader, which close() alone would wait for
                transport.sock.shutdown(socket.SHUT_RDWR)
        client.close()


def opened(client: paramiko.SSHClient, command: str) -> paramiko.Channel:
    channel = client.get_transport().open_session(timeout=5)
    channel.settimeout(10)
    channel.exec_command(command)
    return channel


def answer(client: paramiko.SSHClient, command: str) -> tuple[int, str, str]:
    """Run a command to its end: exit status, stdout, stderr."""
    channel = opened(client, command)
    channel.shutdown_write()
    out, err = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
    return channel.recv_exit_status(), out.decode(), err.decode()


def say(fleet: DemoFleet, name: str, command: str) -> str:
    """Run a command that must succeed, on a connection of its own; return its stdout."""
    with connected(fleet, name) as client:
        code, out, err = answer(client, command)
    assert code == 0, err
    return out


def ask_all(fleet: DemoFleet, names: list[str], command: str) -> dict[str, str]:
    """Run a command on several hosts at once, each on a connection of its own."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(lambda name: say(fleet, name, command), names), strict=True))


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain; threads: {threading.enumerate()}"
        time.sleep(0.02)


def exit_signals(client: paramiko.SSHClient) -> list[str]:
    """Watch for `exit-signal`, which paramiko's own client passes over."""
    transport, seen = client.get_transport(), []
    table = transport._channel_handler_table

    def handle(channel: paramiko.Channel, message: paramiko.Message) -> None:
        if message.get_text() == "exit-signal":
            message.get_boolean()
            seen.append(message.get_text())
        message.rewind()
        message.get_int()
        table[MSG_CHANNEL_REQUEST](channel, message)

    transport._channel_handler_table = {**table, MSG_CHANNEL_REQUEST: handle}
    return seen


def send_signal(channel: paramiko.Channel, name: str) -> None:
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_byte(b"\0")  # no reply wanted
    message.add_string(name)
    channel.get_transport()._send_user_message(message)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# The folder and the door.


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


# Commands.


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


# The simulated machine.


def test_an_upgrade_changes_that_hosts_packages_alone(fleet):
    names = [host.name for host in fleet.hosts]
    before = ask_all(fleet, names, "dpkg-query -W")
    simulated = say(fleet, "web3", "apt-get -q update && apt-get -s upgrade")
    assert "Inst libssl3 [3.0.16-1~deb12u1] (3.0.17-1~deb12u2 Debian:12.11/stable [amd64])\n" in simulated
    out = say(fleet, "web3", "apt-get -qy -o Dpkg::Use-Pty=0 upgrade")
    assert "Setting up libssl3 (3.0.17-1~deb12u2) ...\n" in out
    assert "2 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n" in out
    after = ask_all(fleet, names, "dpkg-query -W")
    assert [name for name in names if before[name] != after[name]] == ["web3"]
    assert "libssl3 3.0.17-1~deb12u2\n" in say(fleet, "web3", "dpkg-query -W -f='${Package} ${Version}\\n'")
    assert say(fleet, "web3", "apt-get -s -qq upgrade; dpkg --audit") == ""


def test_in_prod_four_hosts_have_something_to_upgrade(fleet, tmp_path):
    with DemoFleet.start(tmp_path / "fresh") as fresh:
        names = [host.name for host in fresh.hosts if "prod" in host.groups]
        pending = {name: out.count("Inst ") for name, out in ask_all(fresh, names, "apt-get -qq -s upgrade").items()}
    assert pending.pop("db2") == 0
    assert all(2 <= count <= 4 for count in pending.values()), pending


def test_a_second_upgrade_meets_the_lock(fleet):
    with connected(fleet, "web4") as client:
        first = opened(client, "apt-get -qy upgrade")
        lines = first.makefile("r")
        while not lines.readline().startswith("Get:1"):
            pass
        code, _, err = answer(client, "apt-get -qy upgrade")
        assert (code, err.splitlines()[0].startswith(LOCKED)) == (100, True)
        assert "Setting up" in lines.read().decode()
        assert first.recv_exit_status() == 0
        assert answer(client, "apt-get -qy upgrade")[0] == 0


def test_a_killed_upgrade_leaves_no_lock_behind(fleet):
    with connected(fleet, "dev1") as client:
        channel = opened(client, "apt-get -qy upgrade")
        lines = channel.makefile("r")
        while not lines.readline().startswith("Get:1"):
            pass
        send_signal(channel, "KILL")
        channel.recv_exit_status()
        repeated = opened(client, "apt-get -qy upgrade")  # far enough to see that it has the lock
        assert any(line.startswith("Get:1") for line in repeated.makefile("r"))


def test_a_file_named_fail_apt_makes_the_upgrade_fail(fleet):
    hook = host_named(fleet, "db3").folder / "fail-apt"
    hook.touch()
    with connected(fleet, "db3") as client:
        code, _, err = answer(client, "apt-get -qy upgrade")
        assert code == 100
        assert err.startswith(LOCKED)
        assert "Inst libssl3" in answer(client, "apt-get -qq -s upgrade")[1]
    hook.unlink()


def test_services_differ_by_role_and_the_web_page_needs_its_server(fleet):
    assert say(fleet, "web1", "curl -fsS http://localhost/health") == "ok\n"
    with connected(fleet, "db2") as client:
        assert answer(client, "systemctl is-active postgresql ssh cron") == (0, "active\nactive\nactive\n", "")
        assert answer(client, "systemctl is-active nginx")[:2] == (3, "inactive\n")
        assert answer(client, "curl -fsS http://localhost/health")[0] == 7
        assert answer(client, "curl -fsS http://example.com/")[0] == 6
    with connected(fleet, "web1") as client:
        assert answer(client, "systemctl stop nginx; curl -fs http://localhost/health")[0] == 7
        assert answer(client, "sudo -n -H systemctl start nginx && curl -fs http://localhost/health")[:2] == (0, "ok\n")


def test_a_service_that_fails_makes_the_system_degraded(fleet):
    with connected(fleet, "web1") as client:
        code, out, err = answer(client, "touch fail-cron; systemctl restart cron; systemctl is-system-running")
        assert (code, out) == (1, "degraded\n")
        assert err.startswith("Job for cron.service failed")
        assert "cron.service" in answer(client, "systemctl list-units --failed --no-legend")[1]
        assert len(answer(client, "journalctl -p err -b -q --no-pager")[1].splitlines()) == 2
        assert answer(client, "rm fail-cron; service cron restart; systemctl is-system-running")[:2] == (0, "running\n")
        assert answer(client, "journalctl -p err -b -q --no-pager") == (0, "", "")


def test_what_would_reach_past_the_simulation_is_refused(fleet):
    with connected(fleet, "web1") as client:
        for command in (
            *("poweroff", "halt", "mount /dev/sda /mnt", "passwd root", "sudo init 0", "systemctl poweroff"),
            *("dpkg -i x.deb", "apt-get -y install vim", "apt remove bash", "shutdown -h now", "sysctl -w a=b"),
        ):
            code, out, err = answer(client, command)
            assert (code, out) == (1, ""), command
            assert err.endswith("not simulated in the demo fleet\n"), command


def test_a_host_that_lost_its_simulated_tools_starts_nothing_more(tmp_path):
    with DemoFleet.start(tmp_path / "fleet") as fleet, connected(fleet, "dev1") as client:
        assert answer(client, "rm -rf ~/bin/systemctl")[0] == 0
        with pytest.raises(paramiko.SSHException):
            opened(client, "true")


def test_the_login_is_root_and_sudo_asks_for_nothing(fleet):
    assert say(fleet, "web1", "whoami; id -u; sudo -n -H -u postgres -- A=b sh -c 'whoami; echo $A'") == (
        "root\n0\npostgres\nb\n"
    )
    assert say(fleet, "web1", "sudo -S -k -E -p 'prompt ' id </dev/null") == "uid=0(root) gid=0(root) groups=0(root)\n"


# Rebooting.


def reconnect(fleet: DemoFleet, name: str) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError, paramiko.SSHException), connected(fleet, name):
            return True
        return False

    wait_for(answers)


def test_a_reboot_drops_the_link_and_comes_back_as_a_new_boot_with_the_new_kernel(fleet):
    say(fleet, "db1", "apt-get -qy upgrade")
    assert "KSTA: 3\n" in say(fleet, "db1", "needrestart -b")
    with connected(fleet, "db1") as client:
        _, facts, _ = answer(client, f"{READ_BOOT_ID}; sysctl -n kernel.random.boot_id; uname -r")
        old_id, same_id, old_kernel = facts.split()
        assert (old_id, old_kernel) == (same_id, "6.1.0-35-amd64")
        running = opened(client, "echo $$; exec sleep 60")
        pid = int(running.makefile("r").readline())
        asked_at = time.monotonic()
        assert answer(client, "( sleep 0.3; reboot ) </dev/null >/dev/null 2>&1 &")[0] == 0
        assert time.monotonic() - asked_at < 0.3
        assert running.makefile("rb").read() == b""
        assert running.recv_exit_status() == -1
        wait_for(lambda: not client.get_transport().is_active())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", host_named(fleet, "db1").port), timeout=5)
    wait_for(lambda: not is_running(pid))
    reconnect(fleet, "db1")
    with connected(fleet, "db1") as client:
        assert answer(client, "systemctl is-system-running")[:2] == (1, "starting\n")
        new_id, new_kernel = answer(client, f"{READ_BOOT_ID}; uname -r")[1].split()
        assert new_id != old_id
        assert new_kernel == "6.1.0-37-amd64"
        wait_for(lambda: answer(client, "systemctl is-system-running")[:2] == (0, "running\n"))
        assert "KSTA: 1\n" in answer(client, "needrestart -b")[1]
        assert re.search(r"up 0 min", answer(client, "uptime")[1])


def test_a_reboot_reaches_what_left_its_process_group(fleet):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux shows the environment of other processes")
    pid = int(say(fleet, "db2", "setsid sleep 60 >/dev/null 2>&1 </dev/null & echo $!"))
    with connected(fleet, "db2") as client:
        other = answer(client, "pidof sleep || echo")[1].split()
        assert str(pid) in other
        opened(client, "shutdown -r now")
        wait_for(lambda: not client.get_transport().is_active())
    wait_for(lambda: not is_running(pid))


# The end.


def test_close_ends_every_process_and_port_within_two_seconds(tmp_path):
    fleet = DemoFleet.start(tmp_path / "fleet")
    pids = []
    with contextlib.ExitStack() as stack:
        for host in fleet.hosts[:4]:
            client = stack.enter_context(connected(fleet, host.name))
            channel = opened(client, "trap '' TERM HUP INT; sleep 60 & echo $$ $!; wait; sleep 60")
            pids += [int(word) for word in channel.makefile("r").readline().split()]
        pids.append(int(say(fleet, "web1", "setsid sleep 60 >/dev/null 2>&1 </dev/null & echo $!")))
        pids.append(int(say(fleet, "web1", "( sleep 60 ) </dev/null >/dev/null 2>&1 & echo $!")))
        assert all(is_running(pid) for pid in pids)
        began = time.monotonic()
        fleet.close()
        assert time.monotonic() - began < 2
    assert [pid for pid in pids if is_running(pid)] == []
    for host in fleet.hosts:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", host.port), timeout=5)
    fleet.close()


def test_closing_leaves_no_thread_no_descriptor_and_no_child_behind(tmp_path):
    def held() -> tuple[int, int, int]:
        here = psutil.Process()
        return threading.active_count(), here.num_fds(), len(here.children())

    before = held()
    with DemoFleet.start(tmp_path / "fleet") as fleet, connected(fleet, "web1") as client:
        assert answer(client, "true")[0] == 0
        opened(client, "sleep 60")
        with socket.create_connection(("127.0.0.1", fleet.hosts[0].port)) as silent:
            assert silent.recv(4) == b"SSH-"
    # Fewer is fine: what earlier tests left to end by itself may have ended meanwhile.
    wait_for(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))


def test_nothing_is_written_outside_the_folder(tmp_path, monkeypatch):
    for name in ("home", "work", "temp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    monkeypatch.chdir(tmp_path / "work")
    with DemoFleet.start(tmp_path / "fleet") as fleet, connected(fleet, "web3") as client:
        assert answer(client, "apt-get -qy upgrade && systemctl restart nginx && touch made && mktemp")[0] == 0
        assert answer(client, "touch ~/in-home")[0] == 0
        assert (host_named(fleet, "web3").folder / "in-home").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet", "home", "temp", "work"]
    assert [list((tmp_path / name).rglob("*")) for name in ("home", "work", "temp")] == [[], [], []]


def test_it_says_nothing_on_standard_error_whatever_clients_do(tmp_path):
    program = """
import socket, sys
from pathlib import Path
from opsbook.demo import DemoFleet
with DemoFleet.start(Path(sys.argv[1])) as fleet:
    address = ("127.0.0.1", fleet.hosts[0].port)
    for talk in (b"", b"GET / HTTP/1.0\\r\\n\\r\\n", b"SSH-2.0-x\\r\\n" + b"\\xff" * 64):
        with socket.create_connection(address, timeout=5) as client:
            client.sendall(talk)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path / "fleet"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_tools_are_scripts_that_a_posix_shell_can_read():
    tools = Path(sys.modules["opsbook.demo"].__file__).parent / "tools"
    for tool in tools.iterdir():
        assert tool.read_text().startswith("#!/bin/sh\n# "), tool.name
        subprocess.run(["sh", "-n", tool], check=True)
