"""A scripted stand-in for the service, for who builds its clients on a machine that has none."""
