"""WHERE to run: inventories in Ansible's formats, and patterns over them."""

from opsbook.inventory.hosts import expand_range
from opsbook.inventory.load import load, read_values
from opsbook.inventory.pattern import select

__all__ = ["expand_range", "load", "read_values", "select"]
