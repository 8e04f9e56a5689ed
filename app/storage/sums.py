"""Sums of what was spent, from the ledger's rows: the truth that counters start from and are checked against."""

from __future__ import annotations

from typing import NamedTuple

from .columns import MODEL, QUARTER, progress
from .connection import StoreConnection
from .filters import fits
from .holds import FOREVER
from .rollups import SCOPES, spent_before

QUARTER_SECONDS = QUARTER // 1000
FEW = 20_000  # rows


def start(connection: StoreConnection, scope: str, unit: str, chosen: str, window: tuple[int, int]) -> int:
    """The start of a new counter: the sum of the scope's rows in the window that fit the filter ``chosen``.

    While many rows are not rolled up yet, as after a migration, rows are found by their time if all are kept.
    """
    known = progress(connection)
    ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM calls").fetchall()
    if last - known.rolled_up <= FEW or window[0] * 1000 < known.kept_from:
        return spent_before(connection, scope, unit, window, chosen)
    where, values = _of(scope)
    groups = connection.execute(_ROWS.format("+id", where), (0, *window, *values))
    return sum(getattr(Spent(*group[2:]), unit) for group in groups if fits(chosen, group[0], group[1]))


class Spent(NamedTuple):
    """The sums of some rows; ``usd`` in nano-dollars."""

    requests: int = 0
    tokens: int = 0
    usd: int = 0


def spent(connection: StoreConnection, scope: str, chosen: str, since: int, until: int) -> Spent:
    """The same in another way, to compare a counter with: from the roll-ups of quarters and the rows behind them, if
    the window consists of whole quarters of an hour, as every window of a calendar does; else from rows alone."""
    whole = since % QUARTER_SECONDS == 0 and (until % QUARTER_SECONDS == 0 or until == FOREVER)
    rolled = progress(connection).rolled_up if whole else 0
    where, values = _of(scope)
    groups = connection.execute(_ROWS.format("id" if rolled else "+id", where), (rolled, since, until, *values))
    sums = [group for group in groups if fits(chosen, group[0], group[1])]
    if rolled:
        groups = connection.execute(
            _ROLLUPS.format(where), (since // QUARTER_SECONDS, until // QUARTER_SECONDS, *values)
        )
        sums += [group for group in groups if fits(chosen, group[0], group[1])]
    return Spent(*(sum(group[place] for group in sums) for place in (2, 3, 4)))


def last_minute(connection: StoreConnection, scope: str, since: int) -> list[tuple[int, int, int]]:
    """``(second, requests, tokens)`` of a scope's rows from the second ``since`` on."""
    where, values = _of(scope)
    return connection.execute(_SECONDS.format(where), (since, *values)).fetchall()


def _of(scope: str) -> tuple[str, tuple[str, ...]]:
    kind, _, name = scope.partition(":")
    column = SCOPES.get(kind)
    return (f" AND {column} = ?", (name,)) if column else ("", ())


_ROWS = f"""SELECT endpoint, {MODEL}, sum(requests), sum(total_tokens), coalesce(sum(cost), 0) FROM calls
    WHERE {{}} > ? AND time >= ? * 1000 AND time < ? * 1000{{}} GROUP BY 1, 2"""  # noqa: S608 - our own columns
_ROLLUPS = """SELECT endpoint, model, sum(requests), sum(total_tokens), sum(cost) FROM rollups
    WHERE quarter >= ? AND quarter < ?{} GROUP BY 1, 2"""
_SECONDS = """SELECT time / 1000, sum(requests), sum(total_tokens) FROM calls
    WHERE time >= ? * 1000{} GROUP BY 1"""
