"""WHERE to run: inventories in Ansible's formats, and patterns over them."""
