"""Files in decK's format: read with their lines, compared with the database, written whole or not.

A file names entities by their natural keys (`name`, `username`, `client_id`; a plugin by its name
and scope), nests children in their parents and refers to others by name. `reading` and `items`
take it apart, `state` is what the database holds, `plan` compares the two, `transaction` writes,
`dump` goes the other way, `offline` does without a database.
"""

from control.declarative.dump import What, dump_text
from control.declarative.endpoints import router
from control.declarative.layout import BYTES_MAX, NESTED, ORDER
from control.declarative.problems import FileRefused, Problem
from control.declarative.transaction import How, carry

__all__ = [
    "BYTES_MAX",
    "NESTED",
    "ORDER",
    "FileRefused",
    "How",
    "Problem",
    "What",
    "carry",
    "dump_text",
    "router",
]
