"""opsbook runs Jupyter notebooks as operations runbooks."""

__version__ = "0.1.0"
