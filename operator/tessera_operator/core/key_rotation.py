"""When a run gets another key while it lives, and which number is the newest. Pure.

What must stay true: a key is made before it is counted (making it twice is the same), and pods that are there can read
it: they know where `KEYS_AHEAD` keys after their start's first one will be. The next start has a new key anyway.
"""

from __future__ import annotations

from tessera_api.times import seconds_of, stamp
from tessera_api.training_run_status import ShownKey
from tessera_operator import names
from tessera_operator.core.view import View

_DAY = 86400.0
EXHAUSTED = "the pods can read no further key: suspend and resume the run for another"


def first_key(view: View) -> int:
    """The number of the key with which the next start begins."""
    return (view.status.key.number if view.status.key is not None else 0) + 1


def newest_key(view: View) -> ShownKey | None:
    """The newest key after this pass; None in a run that an older version began."""
    first = view.start.first_key if view.start is not None else None
    if first is None:
        return view.status.key
    known = view.status.key
    if known is None or known.number < first:
        return ShownKey(number=first, made=stamp(view.now), request=view.rotate_request)
    asked = view.rotate_request not in ("", known.request)
    if not asked and view.now - seconds_of(known.made) < view.key_days * _DAY:
        return known
    if known.number >= first + names.KEYS_AHEAD:
        return known.model_copy(update={"request": view.rotate_request or known.request, "message": EXHAUSTED})
    return ShownKey(number=known.number + 1, made=stamp(view.now), request=view.rotate_request or known.request)
