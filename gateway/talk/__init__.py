"""A client of the gateway for people at a terminal and for scripts: `midm-gateway chat`."""
