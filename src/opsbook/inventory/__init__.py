"""WHERE to run: inventories in Ansible's formats (`load`), and patterns over them (`pattern`)."""
