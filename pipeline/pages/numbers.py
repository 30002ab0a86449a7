"""Numbers as people read them."""

from __future__ import annotations

import math

__all__ = ["count_word", "degrees", "duration", "file_size", "percent"]

WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def degrees(value: float | None, digits: int = 5, sign: bool = False) -> str:
    """Degrees, with a true minus; empty if unknown."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:{'+' if sign else ''}.{digits}f}°".replace("-", "−")


def duration(seconds: float) -> str:
    """``48 s``, ``5.7 min`` or ``3.2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if round(seconds / 60, 1) < 60 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """A share with two decimals of a percent, which a sample of ten thousand would justify."""
    return f"{100 * share:.2f} %"


def file_size(size: int) -> str:
    """``512 B``, ``12 kB``, ``1.4 MB``, ``27.0 GB`` and so on, in powers of 1,000."""
    if size < 999_500:
        return f"{size} B" if size < 1000 else f"{size / 1e3:.0f} kB"
    power = min(int(math.log10(size) // 3), 5)
    return f"{size / 1000**power:.1f} {'kMGTP'[power - 1]}B" if size >= 1e6 else f"{size / 1e6:.1f} MB"


def count_word(count: int) -> str:
    """``nine``, and figures beyond ten."""
    return WORDS[count] if count < len(WORDS) else f"{count:,}"
