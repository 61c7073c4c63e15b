"""How numbers are shown to people: short, with their unit."""

from __future__ import annotations

import math


def span(seconds: float) -> str:
    """A time in its two largest units: 1d2h, 3h12m, 4m, 58s."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (whole % 60, "s")]
    first = next((place for place, (count, _) in enumerate(units) if count), len(units) - 1)
    shown = [f"{count}{unit}" for count, unit in units[first : first + 2] if count]
    return "".join(shown) or "0s"


def amount(value: float) -> str:
    """Three or so digits with a suffix: 1.9M, 12.4k, 87.1, 42."""
    if not math.isfinite(value):
        return str(value)
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def loss(value: float) -> str:
    """Four decimals; nan and inf by their names."""
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def seconds(value: float) -> str:
    """A short time: 0.46 s, 12.3 s."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
