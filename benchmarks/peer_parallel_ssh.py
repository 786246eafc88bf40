"""parallel-ssh (libssh2, gevent). Its native client checks no host key, which is in its favour."""

from __future__ import annotations

from gevent import joinall
from pssh.clients import ParallelSSHClient

from job import Job


class ParallelSsh:
    """Its client for many targets, which keeps its connections."""

    def __init__(self, job: Job) -> None:
        self._client = ParallelSSHClient(
            job.hosts,
            user=job.user,
            port=job.port,
            pkey=job.key,
            pool_size=job.parallel,
            allow_agent=False,
            num_retries=1,
            timeout=30,
        )

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""
        outputs = self._client.run_command(command)
        said = [sum(len(line) + 1 for line in output.stdout) for output in outputs]
        self._client.join(outputs)
        return [(output.exit_code, count) for output, count in zip(outputs, said, strict=True)]

    def put(self, local: str, remote: str) -> None:
        """See `client.Peer`."""
        joinall(self._client.copy_file(local, remote), raise_error=True)

    def close(self) -> None:
        """Let go of it: it has no other way to disconnect."""
        self._client = None


def open_peer(job: Job) -> ParallelSsh:
    """Return the peer."""
    return ParallelSsh(job)
