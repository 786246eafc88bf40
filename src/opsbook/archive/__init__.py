"""WHAT HAPPENED: run folders, their journals and records, and the history read from them."""
