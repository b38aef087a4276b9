"""Ids of rows that come by the thousand."""

import random
import time


def ordered_id() -> str:
    """A UUID that sorts by when it was made: milliseconds, then 74 random bits.

    Neighbours in time are neighbours in the index, so that a transaction changes few pages of it.
    It says version 4, as all of Kong's ids do (version 7 of RFC 9562 has the same layout). It
    proves nothing: the random bits need not be secret.
    """
    made = f"{time.time_ns() // 1_000_000:012x}"
    number = random.getrandbits(74)
    rest = f"{number >> 2:018x}"
    return f"{made[:8]}-{made[8:]}-4{rest[:3]}-{'89ab'[number & 3]}{rest[3:6]}-{rest[6:]}"
