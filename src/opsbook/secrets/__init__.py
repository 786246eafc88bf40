"""Secrets by reference: what a reference stands for is resolved here, and only when it is used."""
