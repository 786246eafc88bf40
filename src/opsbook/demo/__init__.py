"""A small SSH fleet on loopback for newcomers: real wire protocol, simulated machines.

Owns the embedded server, its one-time keys and the simulated tools that stand first on each host's PATH. It listens
on 127.0.0.1 alone, and everything it writes is inside the folder it was given. It knows nothing of runbooks, runs
or the ssh room: to the rest of opsbook its hosts are hosts like any other, named in an inventory file.
"""

from opsbook.demo.fleet import DemoFleet, DemoHost

__all__ = ["DemoFleet", "DemoHost"]
