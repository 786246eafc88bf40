"""HOW to reach one host. The one room that knows paramiko; it knows nothing of fleets or runs."""
