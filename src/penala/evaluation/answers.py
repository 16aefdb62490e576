"""When a reply counts as right: every expected string stands in it, and no unexpected one.

Letter case and runs of white space do not matter. A number is bounded: 2.50 is not found in 12.50 or in 2.505, and 7
not in 7.30; the full stop after 2.50 at the end of a sentence is no part of it.
"""

import re
from collections.abc import Iterable


def contains(reply: str, expected: str) -> bool:
    """Tell whether `expected` stands in `reply`."""
    wanted = _normal(expected)
    before = r"(?<!\d)(?<!\d[.,])" if wanted[:1].isdigit() else ""
    after = r"(?![.,]?\d)" if wanted[-1:].isdigit() else ""
    return bool(wanted) and re.search(before + re.escape(wanted) + after, _normal(reply)) is not None


def is_right(reply: str, expected: Iterable[str], unexpected: Iterable[str] = ()) -> bool:
    """Tell whether `reply` holds all of `expected` and none of `unexpected`."""
    return all(contains(reply, text) for text in expected) and not any(contains(reply, text) for text in unexpected)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
