"""Many lengths as one picture: percentiles, bins, and where in a drawing each of them lies.

The axis is logarithmic: lengths of conversations spread over powers of ten, and so may the limits beside them.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

NUM_BINS = 24
PERCENTILES = (50, 90, 99)
# the drawing, in its own units
WIDTH, BARS_HEIGHT, BOTTOM, SIDE = 960, 220, 34, 12
LABEL_HEIGHT, LETTER_WIDTH = 18, 8  # as wide as bold letters of the page's usual fonts


def percentiles(ordered: Sequence[int]) -> dict[str, int]:
    """Return p50, p90, p99 and max of sorted lengths; zeros for none."""
    last = len(ordered) - 1
    values = {f"p{share}": ordered[last * share // 100] if ordered else 0 for share in PERCENTILES}
    return values | {"max": ordered[-1] if ordered else 0}


def bins(ordered: "Sequence[int] | array[int]") -> list[dict[str, int]]:
    """Return {"from", "to", "rows"} of up to 24 bins of equal ratio; "to" is the last length that a bin takes."""
    if not ordered:
        return []
    low, high = max(ordered[0], 1), max(ordered[-1], 1) + 1
    edges = sorted({round(low * (high / low) ** (n / NUM_BINS)) for n in range(NUM_BINS + 1)} | {high})
    below = [0, *(bisect_right(ordered, edge - 1) for edge in edges[1:])]
    return [
        {"from": start, "to": end - 1, "rows": below[n + 1] - below[n]}
        for n, (start, end) in enumerate(pairwise(edges))
    ]


def drawing(found: Sequence[Mapping[str, int]], marks: Mapping[str, int]) -> dict[str, Any]:
    """Place bins and marks (name -> length) in a drawing; labels that would overlap go to a line of their own.

    Returns {"width", "height", "base", "bars", "ticks", "marks"}, all in the drawing's units.
    """
    low, high = found[0]["from"], max(found[-1]["to"], *marks.values()) + 1
    span = math.log(high / low)

    def x(length: float) -> float:
        return round(SIDE + (WIDTH - 2 * SIDE) * math.log(min(max(length, low), high) / low) / span, 1)

    labels = _labels({name: (value, x(value)) for name, value in marks.items()})
    base = BARS_HEIGHT + max((label["y"] for label in labels), default=0) + LABEL_HEIGHT // 2
    tallest = max(bin_["rows"] for bin_ in found)
    bars = []
    for bin_ in found:
        height = round(BARS_HEIGHT * bin_["rows"] / tallest, 1) if bin_["rows"] else 0.0
        height = max(height, 2.0) if bin_["rows"] else 0.0  # a single odd row must be seen
        left, right = x(bin_["from"]), x(bin_["to"] + 1)
        width = round(max(right - left - min(1.5, 0.15 * (right - left)), 1.0), 1)
        bars.append({"x": left, "y": round(base - height, 1), "width": width, "height": height, **bin_})
    ticks = [{"x": x(value), "value": value} for value in _ticks(low, high)]
    return {
        "width": WIDTH,
        "height": base + BOTTOM,
        "base": base,
        "bars": [bar for bar in bars if bar["rows"]],
        "ticks": ticks,
        "marks": labels,
    }


def _ticks(low: int, high: int) -> list[int]:
    """Return round numbers (1, 2, 5 times a power of ten) within the axis; its ends where there are fewer than two."""
    powers = range(int(math.log10(low)), int(math.log10(high)) + 1)
    ticks = [step * 10**power for power in powers for step in (1, 2, 5) if low <= step * 10**power <= high]
    return ticks if len(ticks) > 1 else [low, high - 1] if high - 1 > low else [low]


def _labels(places: Mapping[str, tuple[int, float]]) -> list[dict[str, Any]]:
    ends: list[float] = []  # of the last label on each line, from the top
    labels = []
    for name, (value, x) in sorted(places.items(), key=lambda item: item[1][0]):
        text = f"{name} {value:,}"
        width = LETTER_WIDTH * len(text) + 8
        is_left = x + width > WIDTH - SIDE  # of its line, when there is no room on the right
        start = x - width if is_left else x
        level = next((n for n, end in enumerate(ends) if start >= end), len(ends))
        ends[level : level + 1] = [start + width]
        y = LABEL_HEIGHT * level + 14
        labels.append({"name": name, "value": value, "text": text, "x": x, "y": y, "is_left": is_left})
    return labels
