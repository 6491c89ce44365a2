"""What a request may be called: a client's own name for it, and the ids that we make of one."""

from __future__ import annotations

import re

MAX_CHARS = 128
_SIGN = "[A-Za-z0-9._:/+=@-]"
PATTERN = f"^{_SIGN}{{1,{MAX_CHARS}}}$"
"""Of a name that a client may give, for JSON schemas."""
EXPECTED = f"1 to {MAX_CHARS} letters, digits or ._:/+=@-"
"""The same in words."""
# An id of ours is such a name with an API's prefix and the number of a prompt or choice.
_MAX_RECORD_CHARS = 200
_NAME = re.compile(f"{_SIGN}{{1,{MAX_CHARS}}}")
_RECORD = re.compile(f"{_SIGN}{{1,{_MAX_RECORD_CHARS}}}")


def is_sane(name: str) -> bool:
    """Whether a client may call its request so."""
    return _NAME.fullmatch(name) is not None


def may_have_record(name: str) -> bool:
    """Whether any call's record could be under this id."""
    return _RECORD.fullmatch(name) is not None
