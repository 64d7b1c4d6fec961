"""What goes wrong between a node and Redis; importable where the package `redis` is not there."""


class BrokerAway(Exception):
    """Redis could not be asked, or did not answer in time: what was asked may have been done."""


class ScriptFailed(BrokerAway):
    """Redis answered, but the script could not do its work."""
