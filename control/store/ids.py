"""Ids of rows that come by the thousand."""

import random
import time


def ordered_id() -> str:
    """A UUID that sorts by when it was made: milliseconds, then 74 random bits.

    Neighbours in time are neighbours in the index, so that a transaction changes few pages of it.
    It says version 4, as all of Kong's ids do (version 7 of RFC 9562 has the same layout). It
    proves nothing: the random bits need not be secret.
    """
    made_ms = time.time_ns() // 1_000_000
    number = 4 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)
    number |= made_ms << 80
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
