"""The control plane's end of the link: pushes configuration, tokens and revocations."""

from control.push.hub import Push
from control.push.tls import LinkTLSError, link_tls

__all__ = ["LinkTLSError", "Push", "link_tls"]
