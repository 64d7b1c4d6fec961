"""Brokers carry the running turn's text from the runner to its readers."""
