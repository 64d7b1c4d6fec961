"""Who somebody is, once that is proved."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may use the gateway; it holds no secret.

    `name` is `key:<name>`, `jwt:<subject>` or `anonymous`. `owner` says whose sessions it sees:
    None are those that belong to nobody in particular, the default owner's. `credential` says what
    proved it, `key:<id>` or `jwt:<key id or algorithm>`, and is empty if nothing did. `expires_at`
    is in seconds since 1970; None is never.
    """

    name: str
    owner: str | None
    credential: str
    expires_at: float | None

    @property
    def anonymous(self) -> bool:
        """Whether nothing proved who it is."""
        return not self.credential


def dump(principal: Principal) -> str:
    """Write a principal as JSON, for `load`."""
    return json.dumps(asdict(principal))


def load(text: str) -> Principal:
    """Read what `dump` wrote; raises `ValueError`, which does not quote it, for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    match found:
        case {
            "name": str(name),
            "owner": str() | None as owner,
            "credential": str(credential),
            "expires_at": int() | float() | None as expires_at,
        }:
            return Principal(name, owner, credential, expires_at)
    raise ValueError("not a principal")
