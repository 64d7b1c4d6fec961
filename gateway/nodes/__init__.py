"""What only many nodes need: the link to Redis, the queue they share, the leases of turns."""
