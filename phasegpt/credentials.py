"""Texts without the credentials of the addresses in them, for all that is shown, logged or kept."""

import re


def without_credentials(text: str) -> str:
    """`text` with the user:password@ of every address in it taken out, and the password where it stands in a query."""
    text = re.sub(r"://(?:[^/\s]*|[^/\s@]*:(?!\d+/)[^\s@]*)@", "://", text)
    return re.sub(r"([?&](?:password|sslpassword)=)[^&\s]*", r"\1", text)
