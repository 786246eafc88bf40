"""What the simulated machines are: their names, groups, services, packages and pending updates.

Only values. In `prod` the updates are chosen so that a patch run has something to tell: all but db2 have some, and
web2 and db1 alone get a newer kernel and need a reboot afterwards.
"""

from __future__ import annotations

from msgspec import Struct

OLD_KERNEL = "6.1.0-35-amd64"
NEW_KERNEL = "6.1.0-37-amd64"


class Update(Struct, frozen=True, kw_only=True):
    """One pending package: upgraded when it is installed, newly installed when it is not."""

    package: str
    version: str
    kilobytes: int


class MachineSpec(Struct, frozen=True, kw_only=True):
    """One simulated machine as it is before anybody touched it."""

    name: str
    groups: tuple[str, ...]
    units: tuple[str, ...]
    kernel: str
    """The kernel that runs at first; its package is installed."""
    packages: dict[str, str]
    """Installed packages and their versions."""
    updates: tuple[Update, ...] = ()


_LIBSSL = Update(package="libssl3", version="3.0.17-1~deb12u2", kilobytes=2031)
_OPENSSL = Update(package="openssl", version="3.0.17-1~deb12u2", kilobytes=1430)
_NGINX = Update(package="nginx", version="1.22.1-9+deb12u2", kilobytes=527)
_LIBPQ = Update(package="libpq5", version="15.13-0+deb12u1", kilobytes=189)
_POSTGRESQL = Update(package="postgresql-15", version="15.13-0+deb12u1", kilobytes=16830)
_TZDATA = Update(package="tzdata", version="2025b-0+deb12u1", kilobytes=296)
_KERNEL = (
    Update(package="linux-image-amd64", version="6.1.140-1", kilobytes=2),
    Update(package=f"linux-image-{NEW_KERNEL}", version="6.1.140-1", kilobytes=68412),
)

_KERNEL_PACKAGES = {
    OLD_KERNEL: {"linux-image-amd64": "6.1.137-1", f"linux-image-{OLD_KERNEL}": "6.1.137-1"},
    NEW_KERNEL: {"linux-image-amd64": "6.1.140-1", f"linux-image-{NEW_KERNEL}": "6.1.140-1"},
}
_BASE_PACKAGES = {
    "apt": "2.6.1",
    "bash": "5.2.15-2+b8",
    "ca-certificates": "20230311+deb12u1",
    "coreutils": "9.1-1",
    "cron": "3.0pl1-162",
    "curl": "7.88.1-10+deb12u12",
    "dpkg": "1.21.22",
    "libc6": "2.36-9+deb12u10",
    "libssl3": "3.0.16-1~deb12u1",
    "needrestart": "3.6-4+deb12u3",
    "openssh-server": "1:9.2p1-2+deb12u6",
    "openssl": "3.0.16-1~deb12u1",
    "sudo": "1.9.13p3-1+deb12u1",
    "systemd": "252.36-1~deb12u1",
    "tzdata": "2024b-0+deb12u1",
}
_WEB_PACKAGES = {"nginx": "1.22.1-9+deb12u1"}
_DB_PACKAGES = {"libpq5": "15.12-0+deb12u2", "postgresql-15": "15.12-0+deb12u2"}
_BASE_UNITS = ("cron", "ssh")


def _machine(name: str, stack: str, *, kernel: str = NEW_KERNEL, updates: tuple[Update, ...] = ()) -> MachineSpec:
    """Return a machine; its role is its name without the number. What has no update is already up to date."""
    role = name.rstrip("0123456789")
    roles = {"web": (("nginx",), _WEB_PACKAGES), "db": (("postgresql",), _DB_PACKAGES)}
    units, packages = roles.get(role, ((), {}))
    return MachineSpec(
        name=name,
        groups=(stack, role) if role in roles else (stack,),
        units=tuple(sorted(_BASE_UNITS + units)),
        kernel=kernel,
        packages=_BASE_PACKAGES | packages | _KERNEL_PACKAGES[kernel],
        updates=updates,
    )


MACHINES = (
    _machine("web1", "prod", updates=(_LIBSSL, _OPENSSL, _NGINX)),
    _machine("web2", "prod", kernel=OLD_KERNEL, updates=(_LIBSSL, _OPENSSL, *_KERNEL)),
    _machine("web3", "prod", updates=(_LIBSSL, _OPENSSL)),
    _machine("db1", "prod", kernel=OLD_KERNEL, updates=(_LIBPQ, _POSTGRESQL, *_KERNEL)),
    _machine("db2", "prod"),
    _machine("web4", "staging", updates=(_LIBSSL, _NGINX)),
    _machine("db3", "staging", updates=(_LIBSSL, _LIBPQ, _POSTGRESQL)),
    _machine("dev1", "dev", updates=(_LIBSSL, _OPENSSL, _TZDATA)),
)
"""The whole fleet, in the order the inventory names it."""

REFUSED_COMMANDS = (
    *("poweroff", "halt", "init", "telinit", "kexec", "mount", "umount", "swapon", "swapoff", "modprobe"),
    *("useradd", "userdel", "usermod", "groupadd", "groupdel", "adduser", "deluser", "passwd", "chpasswd", "su"),
    *("iptables", "ip6tables", "nft", "ufw", "wget", "pkill", "killall", "crontab", "snap", "apt-mark"),
    *("hostnamectl", "timedatectl", "localectl", "loginctl", "dpkg-reconfigure"),
)
"""Commands that would reach past the simulation into the machine it runs on: they say so and fail."""
