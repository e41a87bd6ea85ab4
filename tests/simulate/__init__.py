"""Machines that live for years within minutes: the real service over random facts, clock jumps and DST."""
