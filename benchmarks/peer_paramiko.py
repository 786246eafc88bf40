"""paramiko as it comes: its own SSHClient for each target, a thread for each that is at work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import paramiko

from job import Job


class Paramiko:
    """One SSHClient a target."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._clients: dict[str, paramiko.SSHClient] = {}
        self._key = paramiko.PKey.from_path(job.key)
        # a client that read the file itself would be slower with every line of it: its own keys are handed to each
        self._known = paramiko.HostKeys(job.known_hosts)

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""

        def one(host: str) -> tuple[int | None, int]:
            _, stdout, _ = self._client(host).exec_command(command)
            said = stdout.read().decode()
            return stdout.channel.recv_exit_status(), len(said)

        return self._each(one)

    def put(self, local: str, remote: str) -> None:
        """See `client.Peer`."""

        def one(host: str) -> tuple[int | None, int]:
            with self._client(host).open_sftp() as sftp:
                sftp.put(local, remote)
            return 0, 0

        self._each(one)

    def close(self) -> None:
        """See `client.Peer`."""
        clients, self._clients = list(self._clients.values()), {}
        with ThreadPoolExecutor(self._job.parallel) as pool:
            list(pool.map(lambda client: client.close(), clients))

    def _each(self, work) -> list[tuple[int | None, int]]:  # noqa: ANN001  a function of a host
        with ThreadPoolExecutor(self._job.parallel) as pool:
            return list(pool.map(work, self._job.hosts))

    def _client(self, host: str) -> paramiko.SSHClient:
        if host not in self._clients:
            client, name = paramiko.SSHClient(), f"[{host}]:{self._job.port}"
            for kind, key in (self._known.lookup(name) or {}).items():
                client.get_host_keys().add(name, kind, key)
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            client.connect(
                host, self._job.port, self._job.user, pkey=self._key, allow_agent=False, look_for_keys=False, timeout=30
            )
            self._clients[host] = client
        return self._clients[host]


def open_peer(job: Job) -> Paramiko:
    """Return the peer."""
    return Paramiko(job)
