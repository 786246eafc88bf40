"""WHAT to run: a notebook's bytes, header and parameters. Reads them; never executes them."""
