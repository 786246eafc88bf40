"""ONE RUN: the pipeline from a runbook's bytes to its record. The one room that knows papermill and nbclient."""
