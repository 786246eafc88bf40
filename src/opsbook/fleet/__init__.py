"""MANY hosts at once, as a notebook sees them. Takes a channel to a runner, or none (plain Jupyter)."""
