"""Locks between runs: who holds which target, told by files the system frees however their holder ends."""
