"""Measuring many nodes: PostgreSQL, Redis and gateways, each a process of its own."""
