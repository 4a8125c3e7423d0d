"""Text for XML files."""

from __future__ import annotations

import re

# Characters that XML 1.0 does not allow.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """Replace the characters that XML 1.0 does not allow by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)
