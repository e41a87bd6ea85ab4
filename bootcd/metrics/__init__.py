"""The service in figures, for a monitoring system of the host to collect."""
