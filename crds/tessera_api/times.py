"""Times as Kubernetes writes them (RFC 3339, whole seconds, UTC), and spans as `kubectl` shows them."""

from datetime import UTC, datetime

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def stamp(seconds: float) -> str:
    """Unix seconds as a text, the fraction cut off."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_FORM)


def seconds_of(text: str) -> float:
    """Unix seconds of what `stamp` wrote. ValueError when it is none."""
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC).timestamp()


def span(seconds: float) -> str:
    """A time in its two largest units."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"
