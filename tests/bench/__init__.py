"""The benchmark: `python -m tests.bench` measures the gateway beside other ways to do its work."""
