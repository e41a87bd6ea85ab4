"""Values and errors every other package speaks in. No I/O."""
