"""Command-line client of the bootcd service."""

__version__ = "0.1.0"
