"""Text as it may be shown and stored: no control characters, and no credentials in addresses.

Names, metrics, tags, paths and errors may come from somebody else's checkpoint or server.
"""

from __future__ import annotations

import logging
import re
from typing import Any

# Control characters, which move a terminal's cursor, begin its escape sequences or end a line;
# marks that change the direction of text; invisible characters; halves of surrogate pairs.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
# The user and the password before a host. A password may contain an unescaped `@`; one for a
# database, or one that is no part of a valid address, also the characters that end a host.
_USER = re.compile(
    r"(?P<scheme>[a-zA-Z][\w+.-]*)://"
    r"(?P<user>[^\s/?#]*|[^\s:/?#@\[]*:(?!\d{1,5}(?:[/?#]|$))\S*?)@"
)
_QUERY = re.compile(
    r"(?P<name>[?&;][^\s=&;#]*"
    r"(?:token|pass|pwd|secret|credential|auth|signature|\bsig\b|api_?key|accesskey)"
    r"[^\s=&;#]*)=[^\s&;#'\"<>]*",
    re.IGNORECASE,
)


def shown(text: object) -> str:
    """Return text as it may be shown on one line of a terminal, or in a message."""
    return redacted(escaped(str(text)))


def escaped(text: str) -> str:
    """Return text with its control characters and marks of direction as in a Python literal."""
    return _UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redacted(text: str) -> str:
    """Return text without the credentials of the addresses in it.

    A user name without a password stays, unless it is a token for HTTP: it may be a container.
    """
    if "://" not in text and "?" not in text:
        return text
    return _QUERY.sub(r"\g<name>=***", _USER.sub(_without_user, text))


def _without_user(match: re.Match[str]) -> str:
    is_secret = ":" in match["user"] or "http" in match["scheme"].lower()
    return f"{match['scheme']}://" if is_secret else match[0]


class Logger(logging.LoggerAdapter[logging.Logger]):
    """Logs messages as they may be shown.

    Args:
        name: The logger's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: Any, **settings: Any) -> None:
        """Log a message, formatted with its arguments."""
        text = shown(str(msg) % args if args else msg)
        super().log(level, text, **{"stacklevel": 3, **settings})
