"""What a file in decK's format may hold, in which order it is written, and how much of it."""

from __future__ import annotations

FORMAT_VERSION = "3.0"
BYTES_MAX = 10 * 1024 * 1024  # of a file, or of several together; of a dump
NODES_MAX = 1_000_000  # aliases make a small file large: this is what they may add up to
CHARS_MAX = 4 * BYTES_MAX  # of the texts in it, likewise
DEPTH_MAX = 30
TRIED_MAX = 1000  # changes that a dry run tries: other writers wait for it, half a second
ENTITIES_MAX = 100_000  # that a sync or a dump reads at once
PROBLEMS_MAX = 1000  # that one answer tells; how many more there are is said

# In the order in which they are written: what is referred to comes first.
ORDER = (
    "certificates",
    "ca_certificates",
    "snis",
    "services",
    "consumers",
    "routes",
    "oauth2_credentials",
    "upstreams",
    "targets",
    "plugins",
)
# collection → {member: (collection of its items, the field that points back)}
NESTED = {
    "certificates": {"snis": ("snis", "certificate")},
    "services": {"routes": ("routes", "service"), "plugins": ("plugins", "service")},
    "routes": {"plugins": ("plugins", "route")},
    "consumers": {
        "plugins": ("plugins", "consumer"),
        "oauth2_credentials": ("oauth2_credentials", "consumer"),
    },
    "upstreams": {"targets": ("targets", "upstream")},
}
IGNORED = ("_comment", "_transform", "_workspace")
INFO = "_info"  # of its members, `select_tags` alone means something here
