"""Connection variables become the fields of a Target.

Invariant: a connection variable is understood or refused with the target's and its own name; a template, an unknown
ssh option or another way of connecting is never ignored, and a password is no variable of the target. This module
knows no file format and opens no connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from opsbook.inventory.place import Variable
from opsbook.inventory.reader import Reader
from opsbook.inventory.ssh_arguments import Arguments, read_arguments
from opsbook.model.target import Become, Target

HOST = ("ansible_ssh_host", "ansible_host")
PORT = ("ansible_ssh_port", "ansible_port")
USER = ("ansible_ssh_user", "ansible_user")
KEY_FILE = ("ansible_ssh_private_key_file", "ansible_private_key_file")
PASSWORD = ("ansible_ssh_password", "ansible_ssh_pass", "ansible_password")
BECOME_PASSWORD = ("ansible_become_pass", "ansible_become_password")
"""Of several spellings the first one that is set counts, as in Ansible."""
ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
"""In the order in which Ansible hands them to ssh, for which the first value of an option counts."""
CONNECTION = "ansible_connection"
BECOME, BECOME_USER = "ansible_become", "ansible_become_user"
BECOME_METHOD, BECOME_FLAGS, BECOME_EXE = "ansible_become_method", "ansible_become_flags", "ansible_become_exe"
SECRET = {*PASSWORD, *BECOME_PASSWORD}
"""Variables that no script, table or record may see."""
UNDERSTOOD = {
    *(CONNECTION, BECOME, BECOME_USER, BECOME_METHOD, BECOME_FLAGS, BECOME_EXE),
    *(*HOST, *PORT, *USER, *KEY_FILE, *ARGUMENTS, *SECRET),
}
OLD = re.compile(r"ansible_sudo(?:_.*)?|ansible_su(?:_.*)?")
KEY_TEXT = re.compile(r"ansible_(?:ssh_)?private_key(?:_passphrase)?")
SSH_CONNECTIONS = {"ssh", "paramiko", "paramiko_ssh", "smart"}
SUDO = {"sudo", "ansible.builtin.sudo"}
FLAGS = re.compile(r"\s*(?:-[HSn]+(?:\s+-[HSn]+)*)?\s*")


def build_target(
    name: str, variables: Mapping[str, Variable], *, groups: tuple[str, ...], ssh_config: str | None = None
) -> Target:
    """Return a host with its merged variables as a target; `ssh_config` is the file its name comes from.

    Raises:
        InventoryError: a connection variable cannot be honoured.
    """
    refused = {key for key in variables if OLD.fullmatch(key) or KEY_TEXT.fullmatch(key)}
    reader = Reader(name, {key: variables[key] for key in variables if key in UNDERSTOOD or key in refused})
    _check_refused(reader, refused)
    _check_connection(reader)
    arguments = _read_arguments(reader)
    key_file = reader.find(*KEY_FILE)
    return Target(
        name=name,
        host=_read_host(reader) or name,
        port=reader.port(*PORT),
        user=reader.name(*USER),
        password=reader.password(*PASSWORD) or None,
        identity_files=() if key_file is None else (reader.path(key_file, reader.text(key_file)),),
        known_hosts=arguments.known_hosts,
        jump=arguments.jump,
        proxy_command=arguments.proxy_command,
        ssh_config=ssh_config if arguments.config is None else arguments.config,
        become=_read_become(reader),
        groups=groups,
        vars={key: variable.value for key, variable in variables.items() if key not in SECRET},
    )


def _check_refused(reader: Reader, keys: set[str]) -> None:
    """Refuse variables that Ansible honours, or once did, and opsbook does not."""
    for key in sorted(keys):
        if reader.find(key) is None:
            continue
        if KEY_TEXT.fullmatch(key):
            raise reader.error(
                key, "holds a key, which opsbook does not take from an inventory", hint=f"set {KEY_FILE[0]}"
            )
        raise reader.error(key, "is an old spelling", hint="write ansible_become, ansible_become_user and so on")


def _check_connection(reader: Reader) -> None:
    """Refuse a host that is not reached by ssh."""
    if reader.find(CONNECTION) is not None and (kind := reader.text(CONNECTION)) not in SSH_CONNECTIONS:
        raise reader.error(
            CONNECTION,
            f"is {kind!r}, and opsbook reaches targets by ssh alone",
            hint="take the host out, or use ssh",
        )


def _read_host(reader: Reader) -> str | None:
    """Return the address, an IPv6 one without its brackets."""
    text = reader.name(*HOST)
    return text[1:-1] if text is not None and text.startswith("[") and text.endswith("]") else text


def _read_arguments(reader: Reader) -> Arguments:
    """Return what the arguments for ssh ask for, in the order in which ssh sees them, paths made absolute."""
    found = Arguments()
    for key in ARGUMENTS:
        if reader.find(key) is None:
            continue
        text = reader.text(key)
        with reader.about(key):
            asked = read_arguments(text)
        known, config = asked.known_hosts, asked.config
        asked = msgspec.structs.replace(
            asked,
            known_hosts=None if known is None else reader.path(key, known),
            config=config if config in {None, "none"} else reader.path(key, config),
        )
        found = found.before(asked)
    return found


def _read_become(reader: Reader) -> Become:
    """Return how commands become another user: by sudo, with its own flags alone."""
    if reader.find(BECOME_METHOD) is not None and (method := reader.text(BECOME_METHOD)) not in SUDO:
        raise reader.error(
            BECOME_METHOD, f"is {method!r}, and opsbook becomes another user by sudo alone", hint="use sudo"
        )
    if reader.find(BECOME_FLAGS) is not None and FLAGS.fullmatch(reader.text(BECOME_FLAGS)) is None:
        raise reader.error(BECOME_FLAGS, "has other flags than -H, -S and -n", hint="leave the variable out")
    if reader.find(BECOME_EXE) is not None and reader.text(BECOME_EXE) != "sudo":
        raise reader.error(BECOME_EXE, "is not sudo", hint="leave the variable out; sudo is found by its name")
    return Become(
        always=reader.flag(BECOME),
        user=reader.name(BECOME_USER),
        password=reader.password(*BECOME_PASSWORD) or None,
    )
