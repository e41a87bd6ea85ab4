"""What a host can do, joined from registry and storage."""
