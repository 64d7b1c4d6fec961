"""Leaving out what looks like a credential, of logs and of whatever else is shown."""

import re

_SECRET = "[secret]"  # noqa: S105
_SECRETS = re.compile(
    r"(?P<before>\bbearer[\s.]+)[^\s\"',;]+"
    r"|(?P<name>\b(?:ticket|token|access_token|(?:ssl_?)?password|secret)=)[^\s\"'&;]+"
    r"|(?P<user>://[^\s/?#:@]*:)[^\s/?#]+@"
    r"|\bmidm_[a-z2-7]{8}_[\w-]+"
    # Only from its beginning: a search from each of its letters would take the square of the time.
    r"|(?<![\w-])eyJ[\w-]+\.[\w-]+\.[\w-]*",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Leave out what looks like a credential: a token, a key, the password of an address.

    Of what is logged this is the last resort: nothing should have said it in the first place.
    """
    return _SECRETS.sub(_hide, text)


def _hide(found: re.Match[str]) -> str:
    at = "@" if found["user"] else ""
    return f"{found['before'] or found['name'] or found['user'] or ''}{_SECRET}{at}"
