"""The gateway itself: it composes `protocol`, `llm` and `storage` into a server."""
