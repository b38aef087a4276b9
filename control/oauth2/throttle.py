"""How often secrets may be guessed: failures a minute of a name and of an address.  S24.

Judged before any hash runs. Only failures count, and an attempt that is refused here is none: who
waits is let in again, however often he knocked meanwhile. The right secret is refused too while its
name is, from this address; from another one it works, so that nobody locks a client out of the
house by guessing from the street.

Codes, refresh tokens and tickets are not counted: 150 random bits and more are not guessed, and
looking one up costs no hash.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

WINDOW_SECONDS = 60.0
CLIENT_FAILURES = 20  # in WINDOW_SECONDS, of one name from one address
ADDRESS_FAILURES = 200  # in WINDOW_SECONDS, of one address whatever the name
NAMES_MAX = 16_384  # remembered, 0.5 KiB each; past that the one that failed longest ago goes
ADDRESSES_MAX = 4_096  # likewise, at most 2 KiB each at ADDRESS_FAILURES

KEY_CHARS_MAX = 64  # of one that is remembered as it is

Key = str | bytes
Bound = Literal["client", "address"]


@dataclass(slots=True)
class _Record:
    times: array[float] = field(default_factory=lambda: array("d"))  # oldest first
    said: float = -math.inf  # when the bound was reported as reached


class Failures:
    """When each key failed lately; at most `keys_max` keys and `limit` times each."""

    def __init__(self, limit: int, keys_max: int) -> None:
        self.limit = limit
        self._keys_max = keys_max
        self._records: OrderedDict[Key, _Record] = OrderedDict()  # by the last failure

    def __len__(self) -> int:
        return len(self._records)

    def wait(self, key: Key, now: float) -> float:
        """Seconds until this key may fail once more; 0 when it may now."""
        record = self._records.get(key)
        if record is None or len(record.times) < self.limit:
            return 0.0
        return max(0.0, record.times[0] + WINDOW_SECONDS - now)

    def note(self, key: Key, now: float) -> bool:
        """One more failure; whether it reached the limit, said once in a window."""
        record = self._records.pop(key, None) or _Record()
        self._records[key] = record
        if len(self._records) > self._keys_max:
            self._records.popitem(last=False)
        while record.times and (
            len(record.times) >= self.limit or record.times[0] <= now - WINDOW_SECONDS
        ):
            del record.times[0]
        record.times.append(now)
        if len(record.times) < self.limit or now < record.said + WINDOW_SECONDS:
            return False
        record.said = now
        return True


class Throttle:
    """The failures of one control plane.  For one thread, or one event loop.

    A name is whatever a secret belongs to: a client, known or not, or a plugin's backend. An
    address is an IPv4 address or the /64 of an IPv6 one.
    """

    def __init__(
        self,
        client_failures: int = CLIENT_FAILURES,
        address_failures: int = ADDRESS_FAILURES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = Failures(client_failures, NAMES_MAX)
        self._addresses = Failures(address_failures, ADDRESSES_MAX)
        self._clock = clock

    def wait_seconds(self, name: str, address: str) -> int:
        """Whole seconds until `name` may be tried from `address`; 0: now."""
        network = network_of(address)
        now = self._clock()
        of_name = self._names.wait(key_of(name, network), now)
        return math.ceil(max(of_name, self._addresses.wait(network, now)))

    def failed(self, name: str, address: str) -> Bound | None:
        """A secret was wrong; which bound that reached, once in a window of each."""
        network = network_of(address)
        now = self._clock()
        of_name = self._names.note(key_of(name, network), now)
        if self._addresses.note(network, now):
            return "address"
        return "client" if of_name else None


def key_of(name: str, network: str) -> Key:
    """A name from a network, in 16 bytes where it is long: a client id may have 64 KiB."""
    text = f"{network}\0{name}"
    if len(text) <= KEY_CHARS_MAX:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@lru_cache(maxsize=1024)  # of at most a line each; whoever comes again and again is one of few
def network_of(address: str) -> str:
    """What counts as one address: one IPv4 address, 2^64 IPv6 ones."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]  # a socket without an address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)
