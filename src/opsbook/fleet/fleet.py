"""The fleet: some targets, and what a notebook can ask of all of them at once.

    web = targets("prod:&web")
    kernel = web.run("uname -r", read_only=True)
    for wave in web.waves("1,25%,100%", max_fail=1):
        wave.reboot(timeout="10m")

A call returns when every target has a result. When more targets failed than its limit allows, it raises `FleetError`
after showing what happened, so that the cell fails; `check=False` leaves that judgement to the author.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike, fspath

from msgspec.structs import replace

from opsbook.errors import FleetError, UsageError
from opsbook.fleet.content import content_of, mode_bits, owner_name, remote_path
from opsbook.fleet.fanout import CallOptions, Fanout
from opsbook.fleet.limit import Limit
from opsbook.fleet.operation import Operation, RunScript, WaitUntil
from opsbook.fleet.reboot import Reboot
from opsbook.fleet.reread import readable
from opsbook.fleet.result import FleetResult
from opsbook.fleet.session import Session
from opsbook.fleet.table import html_targets
from opsbook.fleet.transfer import GetFile, PutFile
from opsbook.model.amount import parse_duration, wave_sizes
from opsbook.model.event import WavesPlanned
from opsbook.model.outcome import count_states, name_ranges
from opsbook.model.target import Target
from opsbook.redaction import Secret
from opsbook.ssh.script import Script, prepare


def check_flags(
    *,
    timeout: float | str | None = None,
    idle_timeout: float | str | None = None,
    waves: str | None = None,
    durable: bool = False,
    read_only: bool = False,
    sudo: bool | None = None,
    as_user: str | None = None,
    fresh: bool = False,
    **_others: object,
) -> None:
    """Refuse what is wrong about a call of `run` whatever its targets are.

    Raises:
        UsageError: an amount cannot be understood, or two flags contradict each other.
    """
    for amount in (timeout, idle_timeout):
        if amount is not None:
            parse_duration(amount)
    if waves is not None:
        wave_sizes(waves, of=1)
    if durable and read_only:
        raise UsageError("a read-only script cannot be durable", "it can be asked again: leave out one of the two")
    if fresh and not read_only:
        raise UsageError("only a read-only script can be fresh", "what changes a target is never done twice unasked")
    if sudo is False and as_user is not None:
        raise UsageError(f"without sudo it cannot run as {as_user!r}", "leave out one of the two")


def _check_known(targets: Iterable[Target]) -> None:
    """Refuse to hand over variables that nobody can tell (see `Target.sealed`)."""
    sealed = {target.name: target.sealed for target in targets if target.sealed}
    if sealed:
        files = ", ".join(dict.fromkeys(file for files in sealed.values() for file in files))
        raise UsageError(
            f"the inventory variables of {name_ranges(list(sealed))} are not known: {files} is encrypted",
            "decrypt it, encrypt its values one by one (!vault), or ask for no inventory variables",
        )


class Fleet:
    """Targets, in the order of the inventory. A value: selecting from it makes another one."""

    def __init__(
        self,
        session: Session,
        targets: Iterable[Target],
        *,
        limits: tuple[Limit, ...] = (),
        wave: int | None = None,
        waves: int | None = None,
    ) -> None:
        self._session = session
        self._targets = {target.name: target for target in targets}
        self._limits = limits
        self._wave = wave
        self._waves = waves

    @property
    def names(self) -> tuple[str, ...]:
        """The targets' names."""
        return tuple(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __getitem__(self, name: str) -> Target:
        return self._targets[name]

    def __repr__(self) -> str:
        return f"{len(self)} targets: {name_ranges(self.names)}" if self._targets else "no targets"

    def _repr_html_(self) -> str:
        return html_targets(tuple(self))

    def only(self, names: Iterable[str]) -> Fleet:
        """Return the fleet of these targets; its calls share this one's limit."""
        kept = set(names)
        chosen = [target for target in self if target.name in kept]
        return Fleet(self._session, chosen, limits=self._limits, wave=self._wave, waves=self._waves)

    def where(self, wanted: Callable[[Target], bool]) -> Fleet:
        """Return the fleet of the wanted targets: `web.where(lambda t: t.vars.get("role") == "edge")`."""
        return self.only(target.name for target in self if wanted(target))

    def run(
        self,
        script: str,
        *,
        read_only: bool = False,
        check: bool = True,
        max_fail: int | str | None = None,
        parallel: int | None = None,
        timeout: float | str | None = None,
        idle_timeout: float | str | None = None,
        durable: bool = False,
        sudo: bool | None = None,
        as_user: str | None = None,
        shell: str | None = None,
        directory: str | None = None,
        env: Mapping[str, str | Secret] | None = None,
        vars: bool = False,  # noqa: A002  the flag's name
        include_failed: bool = False,
        hard_stop: bool = False,
        idempotent: bool = False,
        fresh: bool = False,
    ) -> FleetResult:
        """Run a script on every target.

        Parameters of the runbook are shell variables in it, `$OPSBOOK_TARGET` is the target's name, `vars=True` adds
        the target's inventory variables, and `env` exports more; a `Secret` is revealed only here and only there. Where
        neither `sudo` nor `as_user` is given, each target's `ansible_become` says. It is ended after `timeout`, or when
        it says nothing for `idle_timeout`. A `durable` one outlives a lost link and the end of this program. Resumed,
        an `idempotent` script whose end nobody knows is run again, and a `fresh` question is asked again.

        Raises:
            UsageError: two of these contradict each other, an amount cannot be understood, or a target's variables
                cannot be told.
            FleetError: more targets failed than `max_fail` (a number, or a percentage of this fleet) allows.
        """
        check_flags(durable=durable, read_only=read_only, sudo=sudo, as_user=as_user, fresh=fresh)
        made = Script(text=script, directory=directory, sudo=sudo, as_user=as_user, shell=shell)
        operation = self._operation(
            made, env or {}, timeout=timeout, idle_timeout=idle_timeout, read_only=read_only, vars=vars, durable=durable
        )
        options = self._options(parallel, check=check, include_failed=include_failed, hard_stop=hard_stop)
        return self._call(operation, replace(options, idempotent=idempotent, fresh=fresh), max_fail)

    def _operation(
        self,
        script: Script,
        env: Mapping[str, str | Secret],
        *,
        timeout: float | str | None,
        idle_timeout: float | str | None,
        read_only: bool,
        vars: bool,  # noqa: A002  the flag's name
        durable: bool,
    ) -> RunScript:
        """Return what is done with a script, with the parameters as its variables and secrets revealed."""
        if vars:
            _check_known(self)
        environment = {name: self._revealed(name, v) if isinstance(v, Secret) else str(v) for name, v in env.items()}
        options = self._session.options
        return RunScript(
            script=replace(script, variables=self._session.variables(), environment=environment),
            timeout_s=options.command_timeout_s if timeout is None else parse_duration(timeout),
            read_only=read_only,
            secret_names=tuple(name for name, value in env.items() if isinstance(value, Secret)),
            vars=vars,
            durable=durable,
            idle_s=options.idle_timeout_s if idle_timeout is None else parse_duration(idle_timeout),
        )

    def _revealed(self, name: str, secret: Secret) -> str:
        with self._session.secrets.using(f"--env {name}"):
            return secret.reveal()

    def reboot(
        self,
        *,
        timeout: float | str = "10m",
        command: str = "reboot",
        sudo: bool | None = None,
        check: bool = True,
        max_fail: int | str | None = None,
        parallel: int | None = None,
        include_failed: bool = False,
    ) -> FleetResult:
        """Reboot every target; done is a different boot id, not an open port.

        Raises:
            FleetError: more targets failed than `max_fail` allows.
        """
        if not command.split():
            raise UsageError("reboot() needs a command", "such as command='systemctl reboot'")
        operation = Reboot(script=Script(text=command, sudo=sudo), timeout_s=parse_duration(timeout))
        options = self._options(parallel, check=check, include_failed=include_failed, hard_stop=False)
        return self._call(operation, options, max_fail)

    def wait_until(
        self,
        script: str,
        *,
        every: float | str = "5s",
        timeout: float | str = "2m",
        check: bool = True,
        max_fail: int | str | None = None,
        parallel: int | None = None,
    ) -> FleetResult:
        """Ask every target again and again until a script ends with 0 there. Changes nothing.

        Raises:
            FleetError: it did not come to hold on more targets than `max_fail` allows.
        """
        made = Script(text=script, variables=self._session.variables())
        operation = WaitUntil(script=made, every_s=parse_duration(every), timeout_s=parse_duration(timeout))
        options = self._options(parallel, check=check, include_failed=False, hard_stop=False)
        return self._call(operation, options, max_fail)

    def put(
        self,
        local: str | PathLike[str] | None = None,
        remote: str | PathLike[str] | None = None,
        *,
        content: str | bytes | None = None,
        mode: int | str | None = None,
        owner: str | None = None,
        sudo: bool | None = None,
        as_user: str | None = None,
        check: bool = True,
        max_fail: int | str | None = None,
        parallel: int | None = None,
        timeout: float | str | None = None,
        include_failed: bool = False,
        hard_stop: bool = False,
    ) -> FleetResult:
        """Write a local file, or a `content`, to a path on every target, whole or not at all.

        Without `mode` and `owner` a file that is there keeps its own, as far as the user may give it away. A link at
        the path is replaced. Where the same content is there already, nothing is sent.

        Raises:
            UsageError: the local file cannot be read, or the path names no file.
            FleetError: more targets failed than `max_fail` allows.
        """
        operation = PutFile(
            content=content_of(local, content),
            remote=remote_path(remote),
            mode=mode_bits(mode),
            owner=owner_name(owner),
            sudo=sudo,
            as_user=as_user,
            timeout_s=self._session.options.command_timeout_s if timeout is None else parse_duration(timeout),
        )
        options = self._options(parallel, check=check, include_failed=include_failed, hard_stop=hard_stop)
        return self._call(operation, options, max_fail)

    def get(
        self,
        remote: str | PathLike[str],
        folder: str | PathLike[str],
        *,
        check: bool = True,
        max_fail: int | str | None = None,
        parallel: int | None = None,
        timeout: float | str | None = None,
    ) -> FleetResult:
        """Read a file of every target into `folder`/TARGET, as the user who logs in. Changes nothing there.

        Raises:
            FleetError: more targets failed than `max_fail` allows.
        """
        operation = GetFile(
            remote=remote_path(remote),
            folder=fspath(folder),
            timeout_s=self._session.options.command_timeout_s if timeout is None else parse_duration(timeout),
        )
        options = self._options(parallel, check=check, include_failed=False, hard_stop=False)
        return self._call(operation, options, max_fail)

    def waves(self, sizes: str = "1,25%,100%", *, max_fail: int | str | None = None) -> Iterator[Fleet]:
        """Yield this fleet in waves. One limit holds for all calls on all of them together, besides those above it.

        Each size is a number of targets or a percentage of this fleet; the last one repeats.
        """
        limit = self._own_limit(max_fail)
        counts = wave_sizes(sizes, of=len(self))
        parts: list[tuple[Target, ...]] = []
        left = list(self)
        for count in counts:
            parts.append(tuple(left[:count]))
            left = left[count:]
        planned = tuple(tuple(target.name for target in part) for part in parts)
        self._session.report(WavesPlanned(cell_id=self._session.cell_id, waves=planned))
        for number, part in enumerate(parts, start=1):
            yield Fleet(self._session, part, limits=(*self._limits, limit), wave=number, waves=len(parts))

    def _own_limit(self, max_fail: int | str | None) -> Limit:
        return Limit(self._session.options.max_fail if max_fail is None else max_fail, self)

    def _options(self, parallel: int | None, *, check: bool, include_failed: bool, hard_stop: bool) -> CallOptions:
        most = self._session.options.parallel if parallel is None else parallel
        if most < 1:
            raise UsageError(f"parallel is {most}; at least one target has to work")
        return CallOptions(
            parallel=most,
            counted=check,
            include_failed=include_failed,
            hard_stop=hard_stop,
            wave=self._wave,
            waves=self._waves,
        )

    def _call(self, operation: Operation, options: CallOptions, max_fail: int | str | None) -> FleetResult:
        """Fan out, then judge: the one place where a call on many targets becomes a success or a `FleetError`."""
        prepare(operation.script, marker="")  # what no shell could read is the author's mistake, not each target's
        own = () if max_fail is None and self._limits else (self._own_limit(max_fail),)
        limits = (*self._limits, *own)
        for limit in limits:
            limit.begin(self.names)
        begun = time.monotonic()
        fanout = Fanout(self._session, self, operation, limits, options)
        with self._session.live.one_output():
            heard = readable(fanout.run().values(), session=self._session, operation=operation, targets=self)
            result = FleetResult(self, heard, duration_s=time.monotonic() - begun)
            passed = fanout.limit_passed
            if passed is None:
                return result
            self._session.show(result)
        raise FleetError(
            passed.sentence,
            f"{count_states(one.state for one in result)}: {name_ranges(result.failed.names)}",
        )
