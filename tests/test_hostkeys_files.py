"""Host keys: what known_hosts files say, who may be recorded, and how long a large file takes."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opsbook.errors import ConnectError
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts, fingerprint

STRICT, NEW, OFF = HostKeyPolicy.STRICT, HostKeyPolicy.ACCEPT_NEW, HostKeyPolicy.OFF
KIND = "ssh-ed25519"


def blob(number: int) -> bytes:
    return b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + number.to_bytes(32, "big")


def line(names: str, number: int, mark: str = "") -> str:
    return f"{mark} {names} {KIND} {base64.b64encode(blob(number)).decode()} a comment\n".lstrip()


def hashed(name: str) -> str:
    salt = hashlib.sha1(name.encode()).digest()
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.fixture
def known(tmp_path: Path) -> Callable[..., KnownHosts]:
    def made(text: str = "") -> KnownHosts:
        (tmp_path / "known_hosts").write_text(text)
        return KnownHosts([tmp_path / "known_hosts"])

    return made


def refusal(hosts: KnownHosts, number: int, policy: HostKeyPolicy = STRICT, host: str = "web1", port: int = 22) -> str:
    with pytest.raises(ConnectError) as caught:
        hosts.check(host, port, KIND, blob(number), policy)
    assert caught.value.state == "hostkey"
    return str(caught.value)


@pytest.mark.parametrize("names", ["web1", "other,WEB1", "web?", "*,!db*", "[*]:22,web1", hashed("web1")])
def test_a_key_is_found_under_every_way_to_write_a_name(known, names):
    assert known(line(names, 1)).check("web1", 22, KIND, blob(1), STRICT)
    assert known(line(names, 1)).kinds("web1", 22) == [KIND]


def test_another_port_is_another_name_and_an_alias_has_none(known):
    hosts = known(line("[web1]:2222", 1) + line(hashed("[web2]:2222"), 1) + line("alias", 1))
    assert hosts.check("web1", 2222, KIND, blob(1), STRICT)
    assert hosts.check("web2", 2222, KIND, blob(1), STRICT)
    assert "not known" in refusal(hosts, 1)
    assert hosts.check("10.0.0.1", 2299, KIND, blob(1), STRICT, alias="alias")


def test_a_changed_key_names_both_and_is_refused_while_keys_are_checked(known):
    hosts = known(line("web1", 1))
    for policy in (STRICT, NEW):
        said = refusal(hosts, 2, policy)
        assert "CHANGED" in said
        assert fingerprint(blob(1)) in said
        assert fingerprint(blob(2)) in said
    assert hosts.check("web1", 22, KIND, blob(2), OFF) is False


def test_a_changed_key_names_the_line_it_is_known_by_and_what_forgets_it(known, tmp_path):
    file = tmp_path / "known_hosts"
    hosts = known("# ours\n\n" + line("web1,[web1]:2222", 1) + line("web3", 3).rstrip())
    said = refusal(hosts, 2)
    assert f"known {fingerprint(blob(1))} in {file}:3, shown {fingerprint(blob(2))}; " in said
    hosts.check("web4", 22, KIND, blob(4), NEW)
    assert f"in {file}:4, shown" in refusal(hosts, 1, host="web3")
    assert f"in {file}:5, shown" in refusal(hosts, 1, host="web4")
    with file.open("a") as stream:
        stream.write("\n# theirs\n" + line(hashed("web5"), 5) + line("web*6", 6))
    assert f"in {file}:8, shown" in refusal(hosts, 1, host="web5")
    assert refusal(hosts, 1, host="web6").endswith(f"in {file}:9, shown {fingerprint(blob(1))}")
    command = refusal(hosts, 9, port=2222).rpartition("if that is right, ")[2].removesuffix(" forgets the known one")
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert hosts.check("web1", 2222, KIND, blob(9), NEW) is False


def test_a_changed_key_names_no_more_known_ones_than_can_be_read(known, tmp_path):
    said = refusal(known("".join(line("web1", number) for number in range(1, 9))), 9)
    assert said.count(str(tmp_path)) == 4
    assert " and 5 more, shown " in said


def test_a_revoked_key_is_refused_even_unchecked_and_even_when_known(known, tmp_path):
    hosts = known(line("web1", 1) + line("*", 1, "@revoked"))
    for policy in HostKeyPolicy:
        assert refusal(hosts, 1, policy).endswith("is marked as revoked in " + str(tmp_path / "known_hosts:2"))
    assert hosts.kinds("web1", 22) == [KIND]


def test_an_authority_makes_no_key_trusted_and_is_told_of(known):
    hosts = known(line("*.example.com", 1, "@cert-authority"))
    assert hosts.kinds("web1.example.com", 22) == []
    assert "host certificates are not supported" in refusal(hosts, 1, host="web1.example.com")
    assert "certificates" not in refusal(hosts, 1, host="elsewhere")


def test_only_a_key_known_before_this_run_is_trusted(known, tmp_path):
    hosts = known(line("web1", 1))
    assert hosts.check("web1", 22, KIND, blob(1), STRICT) is True
    assert hosts.check("web1", 22, KIND, blob(1), OFF) is False
    assert hosts.check("web2", 22, KIND, blob(2), NEW) is False
    assert hosts.check("web2", 22, KIND, blob(2), NEW) is False
    assert KnownHosts([tmp_path / "known_hosts"]).check("web2", 22, KIND, blob(2), STRICT) is True


def test_a_new_key_is_appended_and_nothing_else_changes(known, tmp_path):
    before = "# ours\n\n" + line("web1", 1).rstrip("\n")
    hosts = known(before)
    hosts.check("web2", 2222, KIND, blob(2), NEW)
    after = (tmp_path / "known_hosts").read_text()
    assert after == f"{before}\n[web2]:2222 {KIND} {base64.b64encode(blob(2)).decode()}\n"


def test_a_file_is_made_private_when_the_first_key_is_recorded(tmp_path):
    file = tmp_path / "deep" / "known_hosts"
    KnownHosts([file]).check("web1", 22, KIND, blob(1), NEW)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConnectError, match="no known_hosts file"):
        KnownHosts([]).check("web1", 22, KIND, blob(1), NEW)


def test_what_another_process_recorded_meanwhile_is_honoured(known, tmp_path):
    file = tmp_path / "known_hosts"
    for policy in (STRICT, NEW):
        hosts = known("")
        assert "not known" in refusal(hosts, 1)
        with file.open("a") as stream:
            stream.write(line("web1", 1))
        assert hosts.check("web1", 22, KIND, blob(1), policy) is (policy is STRICT)
        assert len(file.read_text().splitlines()) == 1
        with file.open("a") as stream:
            stream.write(line("web2", 2))
        assert "CHANGED" in refusal(hosts, 3, policy, host="web2")
        replaced = tmp_path / "replaced"
        replaced.write_text(line("web3", 3))
        replaced.replace(file)
        assert hosts.check("web3", 22, KIND, blob(3), STRICT)
        assert "not known" in refusal(hosts, 1)


def test_two_processes_that_record_at_once_lose_nothing(tmp_path):
    file = tmp_path / "known_hosts"
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_hostkeys_files import *
hosts = KnownHosts([Path({str(file)!r})])
for number in range(40):
    hosts.check(f"web{{number}}", 22, KIND, blob(number), NEW)
    hosts.check(f"mine{{number}}-{{sys.argv[1]}}", 22, KIND, blob(number), NEW)
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(number)]) for number in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    names = [entry.split()[0] for entry in file.read_text().splitlines()]
    assert len(names) == len(set(names)) == 120


def test_a_file_that_cannot_be_read_or_written_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    hosts = KnownHosts([tmp_path / "folder"])
    assert "cannot be read: Is a directory" in refusal(hosts, 1)
    assert "cannot record the host key" in refusal(hosts, 1, NEW)


def test_lines_that_are_no_entries_say_nothing(known):
    hosts = known("garbage\n@unknown web1 x y\n|1|x|y ssh-rsa AAAA\nweb9 ssh-rsa !!!\n\0\n" + line("web1", 1))
    assert hosts.check("web1", 22, KIND, blob(1), STRICT)
    assert "CHANGED" in refusal(hosts, 1, host="web9")


def test_many_hashed_entries_cost_little_however_many_hosts_there_are(known, tmp_path):
    text = "".join(line(hashed(f"host{number}"), number) for number in range(2000))
    hosts = known(text)
    begun = time.process_time()
    for number in range(100):
        hosts.kinds(f"host{number}", 22)
        assert hosts.check(f"host{number}", 22, KIND, blob(number), STRICT)
    for number in range(2000, 2050):
        hosts.kinds(f"host{number}", 22)
        assert not hosts.check(f"host{number}", 22, KIND, blob(number), NEW)
    assert time.process_time() - begun < 10  # a fifth of a second; were it all read anew for each, half a minute
    assert (tmp_path / "known_hosts").stat().st_size > len(text)


def test_what_one_set_of_files_recorded_is_new_to_every_other_of_the_run(tmp_path):
    shared, seen = tmp_path / "shared", set()
    first = KnownHosts([shared], first_seen=seen)
    second = KnownHosts([shared, tmp_path / "more"], first_seen=seen)
    assert first.check("web1", 22, KIND, blob(1), NEW) is False
    for name in ("web1", "WEB1"):
        for policy in (STRICT, NEW):
            assert first.check(name, 22, KIND, blob(1), policy) is False
            assert second.check(name, 22, KIND, blob(1), policy) is False
    assert KnownHosts([shared]).check("WEB1", 22, KIND, blob(1), STRICT) is True  # another run


def test_a_new_key_is_never_written_to_the_systems_file(tmp_path):
    system = tmp_path / "ssh_known_hosts"
    system.write_text(line("web1", 1))
    assert KnownHosts([], [system]).check("web1", 22, KIND, blob(1), NEW) is True
    assert "no known_hosts file" in refusal(KnownHosts([], [system]), 2, NEW, host="web2")
    assert KnownHosts([tmp_path / "own"], [system]).check("web2", 22, KIND, blob(2), NEW) is False
    assert system.read_text() == line("web1", 1)


def test_a_lock_somebody_keeps_is_waited_for_no_longer_than_there_is_time(known, tmp_path):
    hosts = known(line("web1", 1))
    with (tmp_path / "known_hosts").open("rb") as held, ThreadPoolExecutor(4) as threads:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()
        waiting = [
            threads.submit(hosts.check, f"new{number}", 22, KIND, blob(9), NEW, within_s=1.0) for number in range(4)
        ]
        time.sleep(0.2)
        assert hosts.check("web1", 22, KIND, blob(1), STRICT)
        assert hosts.kinds("web1", 22) == [KIND]
        assert time.monotonic() - begun < 0.8
        for one in waiting:
            with pytest.raises(ConnectError, match="is locked") as caught:
                one.result(5)
            assert caught.value.state == "hostkey"
        assert time.monotonic() - begun < 3
    assert hosts.check("new1", 22, KIND, blob(9), NEW, within_s=1.0) is False
    assert len((tmp_path / "known_hosts").read_text().splitlines()) == 2
