"""Addresses of a PostgreSQL database in the settings, in libpq's form. No message has a part of an address.

    postgresql://user:password@host-1:5432,host-2:5432/database?sslmode=verify-full
    postgresql://user:password@/database?host=/run/postgresql

User names and passwords are percent-encoded.
"""

from __future__ import annotations

import re

FORM = (
    "must be a URL such as postgresql://torii:password@db.example:5432/torii; special characters of the password are"
    " percent-encoded, such as %40 for @ and %2F for /"
)
HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+|%2[Ff][A-Za-z0-9_.%-]*)?(?::[0-9]{1,5})?"
PLAIN = r"[!-~]"  # ASCII: urllib refuses some others, and quotes them
ENCODED = rf"(?:(?![@/?#\[\]%]){PLAIN}|%[0-9A-Fa-f]{{2}})"
URL = re.compile(rf"(?:postgresql|postgres)://(?:{ENCODED}*@)?({HOST}(?:,{HOST})*/{ENCODED}+)(?:\?(?:(?!#){PLAIN})*)?")


def checked(url: str) -> str:
    """The address as libpq and SQLAlchemy take it. Raises ValueError, which says what is right."""
    if URL.fullmatch(url) is None:
        raise ValueError(FORM)
    return f"postgresql:{url.partition(':')[2]}"


def place(url: str) -> str:
    """The address without user, password and options."""
    found = URL.fullmatch(url)
    return f"postgresql://{found[1]}" if found else "postgresql"
