"""asyncssh: one event loop, a semaphore for how many targets are at work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncssh

from job import Job


class AsyncSsh:
    """One connection a target on one loop."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._runner = asyncio.Runner()
        self._connections: dict[str, asyncssh.SSHClientConnection] = {}
        self._key = asyncssh.read_private_key(job.key)
        self._known = asyncssh.read_known_hosts(job.known_hosts)

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""

        async def one(host: str) -> tuple[int | None, int]:
            done = await (await self._connection(host)).run(command)
            return done.exit_status, len(done.stdout or "")

        return self._each(one)

    def put(self, local: str, remote: str) -> None:
        """See `client.Peer`."""

        async def one(host: str) -> tuple[int | None, int]:
            async with (await self._connection(host)).start_sftp_client() as sftp:
                await sftp.put(local, remote)
            return 0, 0

        self._each(one)

    def close(self) -> None:
        """See `client.Peer`."""
        connections, self._connections = list(self._connections.values()), {}

        async def all_of_them() -> None:
            for connection in connections:
                connection.close()
            await asyncio.gather(*(connection.wait_closed() for connection in connections))

        self._runner.run(all_of_them())

    def _each(self, work: Callable[[str], Awaitable[tuple[int | None, int]]]) -> list[tuple[int | None, int]]:
        async def bounded() -> list[tuple[int | None, int]]:
            slots = asyncio.Semaphore(self._job.parallel)

            async def one(host: str) -> tuple[int | None, int]:
                async with slots:
                    return await work(host)

            return await asyncio.gather(*map(one, self._job.hosts))

        return self._runner.run(bounded())

    async def _connection(self, host: str) -> asyncssh.SSHClientConnection:
        if host not in self._connections:
            self._connections[host] = await asyncssh.connect(
                host,
                self._job.port,
                username=self._job.user,
                client_keys=[self._key],
                known_hosts=self._known,
                agent_path=None,
                config=None,
            )
        return self._connections[host]


def open_peer(job: Job) -> AsyncSsh:
    """Return the peer."""
    return AsyncSsh(job)
