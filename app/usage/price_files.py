"""Files with prices: a CSV, or LiteLLM's public model_prices_and_context_window.json. Parsing only, no I/O.

upstream,model,input,output,per_call,source,date
jina,jina-embeddings-v3,0.02,,,invoice of November,2026-11-30
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Any

import msgspec

from ..core.money import dollars
from ..core.names import nearest, shown
from .prices import MILLION, Price, price_of

Row = dict[str, str]  # the fields of a price in the configuration, amounts as decimal strings
Table = dict[str, dict[str, Row]]  # by upstream and model

COLUMNS = ("upstream", "model", "input", "output", "per_call", "source", "date")
AMOUNTS = ("input", "output", "per_call")
# LiteLLM's names for the providers that this gateway knows, and ours for their upstreams.
PROVIDERS = {"jina_ai": "jina", "aihubmix": "aihubmix", "openai": "openai"}
# LiteLLM's fields by ours, in dollars for one token and for one call.
PER_TOKEN = {"input": "input_cost_per_token", "output": "output_cost_per_token"}
PER_CALL = ("input_cost_per_query", "input_cost_per_request")

_LITELLM = msgspec.json.Decoder(dict[str, dict[str, Any]], float_hook=Decimal)


@dataclass(slots=True)
class PriceFile:
    """``table`` is the section ``prices`` of the configuration. ``skipped`` counts the entries of other providers, and
    those without a price for tokens or calls."""

    table: Table = field(default_factory=dict)
    skipped: int = 0

    def add(self, upstream: str, model: str, price: Price) -> None:
        tokens = () if price.flat and price.per_call else ("input", "output")
        said = {name: dollars(getattr(price, name)) for name in tokens}
        if price.per_call:
            said["per_call"] = dollars(price.per_call)
        said |= {name: value for name, value in (("source", price.source), ("date", price.date)) if value}
        self.table.setdefault(upstream, {})[model] = said


def read(text: str, source: str, day: date, upstreams: Mapping[str, str] | None = None) -> PriceFile:
    """The prices of a file's text. ``source`` and ``day`` are for prices whose entry does not say them. ``upstreams``:
    LiteLLM's names of providers and the names of their upstreams here; by default PROVIDERS.

    Raises ValueError, which says where and what would be right.
    """
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] in ("{", "["):
        return _litellm(text, source, day, PROVIDERS if upstreams is None else upstreams)
    return _csv(text, source, day)


def _csv(text: str, source: str, day: date) -> PriceFile:
    found = PriceFile()
    lines = csv.reader(text.splitlines(), strict=True)
    try:
        names = [name.strip().lower() for name in next(lines, [])]
        _check(names)
        for cells in lines:
            if any(cell.strip() for cell in cells):
                _line(found, dict(zip(names, map(str.strip, cells), strict=True)), source, day)
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: {error}") from None
    except ValueError as error:
        place = "" if lines.line_num <= 1 else f"line {lines.line_num}: "
        said = f"must have {len(names)} fields, as the first line" if "zip()" in str(error) else error
        raise ValueError(f"{place}{said}") from None
    return found


def _check(names: list[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise ValueError(
                f"the first line must name the columns, of {', '.join(COLUMNS)}; it has {shown(name)!r}. "
                f"Nearest: {nearest(name, COLUMNS)[0]}"
            )
    if missing := [name for name in COLUMNS[:2] if name not in names]:
        raise ValueError(f"the first line must name the columns, of {', '.join(COLUMNS)}; it has no {missing[0]}")
    if len(set(names)) < len(names):
        raise ValueError("the first line names a column twice")


def _line(found: PriceFile, cells: Row, source: str, day: date) -> None:
    upstream, model = cells["upstream"], cells["model"]
    for name in ("upstream", "model"):
        if not cells[name]:
            raise ValueError(f"{name} is empty")
    amounts = {name: cells.get(name) or None for name in AMOUNTS}
    said = cells.get("date") or day.isoformat()
    try:
        date.fromisoformat(said)
    except ValueError:
        raise ValueError(f"date must be a date such as 2026-11-30, not {shown(said)!r}") from None
    if model in found.table.get(upstream, {}):
        raise ValueError(f"{shown(model)} at {shown(upstream)} has a price already")
    found.add(upstream, model, price_of(**amounts, source=cells.get("source") or source, date=said))


def _litellm(text: str, source: str, day: date, upstreams: Mapping[str, str]) -> PriceFile:
    found = PriceFile()
    try:
        entries = _LITELLM.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(
            f"must be a CSV, or LiteLLM's price file, an object with an object for each model: {error}"
        ) from None
    if not any(name in entry for entry in entries.values() for name in (*PER_TOKEN.values(), *PER_CALL)):
        raise ValueError(f"has no entry with {PER_TOKEN['input']}, so it is not LiteLLM's price file")
    for name, entry in entries.items():
        upstream = upstreams.get(str(entry.get("litellm_provider")))
        amounts = dict(_amounts(name, entry)) if upstream is not None and name != "sample_spec" else {}
        if upstream is None or not amounts:
            found.skipped += 1
            continue
        model = name.removeprefix(f"{entry['litellm_provider']}/")
        found.add(upstream, model, price_of(**amounts, source=source, date=day))
    return found


def _amounts(name: str, entry: dict[str, Any]) -> Iterator[tuple[str, Decimal]]:
    """The dollars for a million tokens, and for a call."""
    for ours, theirs in PER_TOKEN.items():
        if entry.get(theirs) is not None:
            yield ours, _rounded(_number(name, theirs, entry[theirs]) * MILLION)
    for theirs in PER_CALL:
        if entry.get(theirs) is not None:
            yield "per_call", _rounded(_number(name, theirs, entry[theirs]))
            return


def _number(name: str, place: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
        raise ValueError(f"{shown(name)}.{place} must be a number of at least 0")
    return Decimal(value)


def _rounded(amount: Decimal) -> Decimal:
    """Whole nano-dollars, rounded up."""
    return amount.quantize(Decimal("1e-9"), ROUND_CEILING)
