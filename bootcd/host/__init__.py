"""Primitives of the operating system: clock, files, processes, notification."""
