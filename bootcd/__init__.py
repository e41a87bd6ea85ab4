"""Update service for image-based Linux hosts."""

__version__ = "0.1.0"
