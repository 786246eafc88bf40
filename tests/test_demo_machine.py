"""The machine each host of the demo fleet simulates, its reboot, and the fleet's end."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import paramiko
import psutil
import pytest
from demo_hosts import (
    LOCKED,
    READ_BOOT_ID,
    answer,
    ask_all,
    connected,
    host_named,
    is_running,
    opened,
    say,
    send_signal,
    wait_for,
)

from opsbook.demo import DemoFleet

pytest_plugins = ["demo_desk"]


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
