"""The `bootc` command: what it is told, what it says."""
