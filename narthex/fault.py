"""The one way a command ends badly: a line on stderr that says what is wrong, and an exit code."""

from __future__ import annotations


class Fault(Exception):
    """What is wrong and what to do, in one line; the command ends with exit code 1."""
