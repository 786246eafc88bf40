"""What `hosts/NAME.log` holds: the bytes a target said, whatever they are, but for what is masked."""

from __future__ import annotations

import pytest

from opsbook.archive.layout import Claim, run_folder
from opsbook.execution.host_logs import HostLogs
from opsbook.model.event import TargetOutput

NAMES = {"web1": "127.0.7.1"}
MORE_HOSTS = "ansible_become_password=Zaubernuss7\n"
EVERY = bytes(range(256))
BROKEN = EVERY * 3 + b"\n\xff\xfe half a snowman: \xe2\x98\n" + "whole: ☃ é\n".encode() + b"no end \xf0\x9f\x98"


@pytest.mark.parametrize("how", [[], ["--durable"]])
def test_what_is_no_text_comes_back_byte_by_byte_and_secrets_do_not(desk, how):
    data = BROKEN + b"\xff Zaubernuss7\xff\n"
    desk.write("data", data)
    ran = desk.opsbook("exec", "web1", *how, "--json", "--", "cat", desk.folder / "data")
    assert ran.code == 0, ran
    run = desk.run_of(ran)
    assert (run.folder / "hosts/web1.log").read_bytes() == data.replace(b"Zaubernuss7", b"***")
    (ended,) = run.events("target_ended")
    assert ended["stdout"] == data.replace(b"Zaubernuss7", b"***").decode("utf-8", "replace")


def test_a_log_is_cut_at_its_limit_also_among_broken_bytes(tmp_path):
    claim = Claim(run_folder(tmp_path, "20261120T120000Z-book-000000"))
    logs = HostLogs(claim.folder, most=10)
    logs.append([TargetOutput(call=1, target="web1", stream="stdout", text="x", raw=b"\xff\xfe\n" * 5)])
    claim.release()
    assert claim.folder.host_log("web1").read_bytes().startswith(b"\xff\xfe\n" * 3 + b"[opsbook: ")
