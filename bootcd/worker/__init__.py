"""One process, one job."""
