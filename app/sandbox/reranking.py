"""Rankings of documents by a query, the same at both providers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from . import vectors
from .embedding import Piece, cut
from .models import Reranker


@dataclass(frozen=True, slots=True)
class Score:
    index: int
    value: float


def scores(model: Reranker, query: Piece, documents: list[Piece]) -> list[Score]:
    """Best first; equal scores keep the order of the documents."""
    found = [Score(index, _score(model, query, document)) for index, document in enumerate(documents)]
    return sorted(found, key=lambda score: -score.value)


def _score(model: Reranker, query: Piece, document: Piece) -> float:
    """0 to 1 for a cross encoder; a listwise model's score can be below 0."""
    near = (vectors.cosine(query.features, document.features) + vectors.coverage(query.features, document.features)) / 2
    return near - 0.05 if model.listwise else 1 / (1 + math.exp(2.5 - 7 * near))


def shortened(documents: list[Piece], tokens: int) -> list[Piece]:
    return [cut(document, tokens) if document.tokens > tokens else document for document in documents]


def echo(model: Reranker, document: Any) -> Any:
    """The document of a result: as sent if the model echoes it, else an object."""
    return {"text": document} if isinstance(document, str) and not model.echoes else document
