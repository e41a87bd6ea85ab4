"""Tools for who makes host images."""
