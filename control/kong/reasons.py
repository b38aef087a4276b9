"""Why the Admin API would refuse an entity, as a report has it."""

import re

from control.admin.errors import AdminError

_VIOLATIONS = re.compile(r"(?:\d+ )?schema violations? \((.*)\)", re.DOTALL)


def why_refused(error: AdminError) -> str:
    """`host: invalid hostname: a b` for `schema violation (host: invalid hostname: a b)`."""
    text = str(error.body.get("message") or error.body)
    found = _VIOLATIONS.fullmatch(text)
    return text if found is None else found[1]
