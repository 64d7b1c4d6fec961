"""What is said on the wire: pydantic and the standard library, no I/O and no event loop."""
