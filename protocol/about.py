"""What this is called, and which version of it this is."""

from importlib.metadata import version

NAME = "midm-chat-gateway"
VERSION = version(NAME)
