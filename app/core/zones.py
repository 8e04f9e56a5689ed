"""Time zones by their IANA names. The machine's own data is used if it has any, else that of the package tzdata."""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from .names import nearest, shown


def zone_of(name: str) -> ZoneInfo:
    """The zone of a name such as ``Europe/Berlin``, in the letter case of the list.

    Raises ValueError for any other name, with the nearest one: the file systems of some machines would accept
    ``europe/berlin``, those of others would not.
    """
    try:
        zone = ZoneInfo(name)
        if name == "UTC" or name in _names():
            return zone
    except (KeyError, ValueError, OSError):
        pass
    raise ValueError(f"{shown(name)!r} is not a time zone of IANA. Nearest: {nearest(name, _names())[0]}")


@cache
def _names() -> frozenset[str]:
    """Reading them takes 5 ms, because there is a file for each."""
    return frozenset(available_timezones())
