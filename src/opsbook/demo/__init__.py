"""A small SSH fleet on loopback for newcomers: real wire protocol, simulated machines."""
