"""Addresses in a form that may be shown."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=//)[^/?#]*@")
# A password with an unescaped slash. What precedes it would be the port, but is no number.
_USER_WITH_SLASH = re.compile(r"(?<=//)[^/?#:@\[\]]*:(?!\d*(?:[/?#]|$)).*@")


def public_url(url: str) -> str:
    """Returns a URL without user name and password."""
    return _USER_WITH_SLASH.sub("", _USER.sub("", url, count=1), count=1)
