"""Ids of rows that come by the thousand."""

import random
import time


def ordered_id() -> str:
    """A UUID of version 7, which sorts by when it was made.  RFC 9562 §5.7.

    Neighbours in time are neighbours in the index, so that a transaction changes few pages of it.
    It names and proves nothing: its 74 random bits need not be secret.
    """
    made_ms = time.time_ns() // 1_000_000
    number = 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)
    number |= made_ms << 80
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
