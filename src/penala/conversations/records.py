"""What reading a file gives: records, each with the physical line where it starts."""

from typing import Any

from penala.conversations.faults import Fault

# A record: its line (of a parquet file its row), and its JSON text, its columns, or what is wrong with it.
# A fault of level note is about the whole file and counts as no record. A bare tuple: there are many of them.
Record = tuple[int, bytes | dict[str, Any] | Fault]


class Unreadable(Exception):
    """A file that cannot be read at all; it becomes one finding for the file."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
