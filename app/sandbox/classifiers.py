"""Classify, train and classifiers, at api.jina.ai.

Scores come from words in common: an input against the label's own words, or against the trained texts of the label.
Classifiers are kept in memory, by the key that trained them; a public one can be used with any key.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from . import embedding, errors, vectors
from .embedding import Piece
from .errors import HostError, problem
from .models import CLASSIFYING, JINA_EMBEDDERS, Embedder
from .vectors import Features
from .wire import Answer, Ask, Handler, Json, Whole

MOST_INPUTS = 512
MOST_LABELS = 512
MOST_GROUPS = 8
MOST_IN_GROUP = 64
MOST_CLASSIFIERS = 16
_SHARPNESS = 4.0
_USUAL_ITERATIONS = 10


@dataclass(slots=True)
class Classifier:
    """``samples``: the features of the trained texts, by label."""

    id: str
    owner: str
    model: str
    access: str
    created: datetime
    samples: dict[str, list[Features]] = field(default_factory=dict)
    updated: datetime | None = None
    used: datetime | None = None
    updates: int = 0
    uses: int = 0

    def shown(self) -> Json:
        return {
            "classifier_id": self.id,
            "user_id": blake2b(self.owner.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest(),
            "model": self.model,
            "labels": list(self.samples),
            "access": self.access,
            "updated_number": self.updates,
            "used_number": self.uses,
            "created_at": _time(self.created),
            "updated_at": _time(self.updated),
            "used_at": _time(self.used),
            "is_active": True,
            "is_latest": True,
            "metadata_": {},
        }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


class Classifiers:
    """The classifiers of all accounts; an account is a key."""

    def __init__(self) -> None:
        self._known: dict[str, Classifier] = {}

    def find(self, ask: Ask) -> Handler | None:
        """The handler of a request to one of the three paths, with the account of its key."""
        owner, path = ask.key or "", ask.path.rstrip("/")
        if (ask.method, path) == ("POST", "/classify"):
            return lambda body, quirk: self.classify(owner, body)
        if (ask.method, path) == ("POST", "/train"):
            return lambda body, quirk: self.train(owner, body)
        if ask.method in ("GET", "POST") and path == "/classifiers":
            return lambda body, quirk: self.all(owner)
        named = path.removeprefix("/classifiers/")
        if ask.method == "DELETE" and path != named:
            return lambda body, quirk: self.delete(owner, named)
        return None

    def all(self, owner: str) -> Answer:
        return Whole([one.shown() for one in self._known.values() if one.owner == owner])

    def delete(self, owner: str, name: str) -> Answer:
        own = self._usable(owner, name, others=False)
        del self._known[own.id]
        return Whole({"classifier_id": own.id, "status": "deleted"})

    def _usable(self, owner: str, name: Any, *, others: bool) -> Classifier:
        found = self._known.get(name) if isinstance(name, str) else None
        if found is None or not (found.owner == owner or (others and found.access == "public")):
            raise HostError(errors.jina(404, "Classifier not found or access denied", "RESOURCE_NOT_FOUND"))
        return found

    # -------------------------------------------------------------------- classify

    def classify(self, owner: str, body: Json) -> Answer:
        if body.get("classifier_id") is not None:
            return self._few_shot(owner, body)
        _refuse_others(body, ("model", "input", "labels"))
        model = _model(body)
        groups = _groups(body.get("labels"))
        pieces = _inputs(body, model)
        wanted = {name: {label: vectors.features(label) for label in labels} for name, labels in groups.items()}
        data = [
            _classified(at, piece, wanted, grouped=isinstance(body["labels"], dict)) for at, piece in enumerate(pieces)
        ]
        tokens = sum(len(vectors.tokens(label)) for labels in groups.values() for label in labels)
        total = tokens + sum(piece.tokens for piece in pieces)
        return Whole({"data": data, "usage": {"total_tokens": total}})

    def _few_shot(self, owner: str, body: Json) -> Answer:
        _refuse_others(body, ("classifier_id", "input"))
        trained = self._usable(owner, body["classifier_id"], others=True)
        pieces = _inputs(body, JINA_EMBEDDERS[trained.model])
        wanted = {"": {label: _sum(samples) for label, samples in trained.samples.items()}}
        trained.uses, trained.used = trained.uses + 1, datetime.now(UTC)
        data = [_classified(at, piece, wanted, grouped=False) for at, piece in enumerate(pieces)]
        return Whole({"data": data, "usage": {"total_tokens": sum(piece.tokens for piece in pieces)}})

    # ----------------------------------------------------------------------- train

    def train(self, owner: str, body: Json) -> Answer:
        rounds = _iterations(body)
        if body.get("classifier_id") is not None:
            _refuse_others(body, ("classifier_id", "input", "num_iters"))
            trained = self._usable(owner, body["classifier_id"], others=False)
            samples = _samples(body, JINA_EMBEDDERS[trained.model], least=1)
            trained.updates, trained.updated = trained.updates + 1, datetime.now(UTC)
        else:
            _refuse_others(body, ("model", "input", "access", "num_iters"))
            model = _model(body)
            samples = _samples(body, model, least=2)
            trained = self._new(owner, model, body)
        for piece, label in samples:
            trained.samples.setdefault(label, []).append(piece.features)
        self._known[trained.id] = trained
        total = sum(piece.tokens for piece, _ in samples) * rounds
        told = {"classifier_id": trained.id, "num_samples": len(samples)}
        return Whole({**told, "usage": {"total_tokens": total}})

    def _new(self, owner: str, model: Embedder, body: Json) -> Classifier:
        access = body.get("access", "public")
        if access not in ("public", "private"):
            wrong = problem("access", "Input should be 'public' or 'private'", "enum", access)
            raise HostError(errors.jina_validation([wrong]))
        if sum(one.owner == owner for one in self._known.values()) >= MOST_CLASSIFIERS:
            text = f"The account has {MOST_CLASSIFIERS} classifiers, the most of its plan"
            raise HostError(errors.jina(403, text, "AUTHZ_RESOURCE_LIMIT_EXCEEDED"))
        return Classifier(str(uuid.uuid4()), owner, model.id, access, datetime.now(UTC))


# ----------------------------------------------------------------------- the parts


def _refuse_others(body: Json, known: tuple[str, ...]) -> None:
    found = [
        problem(f"body -> {name}", "Extra inputs are not permitted", "extra_forbidden", body[name])
        for name in body
        if name not in known
    ]
    if found:
        raise HostError(errors.jina_validation(found))


def _model(body: Json) -> Embedder:
    name = body.get("model")
    if not isinstance(name, str):
        raise HostError(errors.jina_validation([problem("model", "Field required", "missing", name)]))
    if name not in CLASSIFYING:
        raise HostError(errors.jina_nested(400, f"Model '{name}' not found", "INPUT_MODEL_NOT_FOUND"))
    return JINA_EMBEDDERS[name]


def _groups(labels: Any) -> dict[str, list[str]]:
    """The labels by group, "" for a plain list."""
    groups = labels if isinstance(labels, dict) else {"": labels}
    if not groups or not all(isinstance(group, list) and group for group in groups.values()):
        raise _label_error("INPUT_INVALID_LABELS", "Labels must be a list of texts, or lists of texts by group")
    if isinstance(labels, dict) and len(groups) > MOST_GROUPS:
        raise _label_error("INPUT_LABEL_LIMIT_EXCEEDED", f"At most {MOST_GROUPS} groups of labels are allowed")
    most = MOST_IN_GROUP if isinstance(labels, dict) else MOST_LABELS
    if any(len(group) > most for group in groups.values()):
        raise _label_error("INPUT_LABEL_LIMIT_EXCEEDED", f"At most {most} labels are allowed")
    return {name: [_label(label) for label in group] for name, group in groups.items()}


def _label(label: Any) -> str:
    """A label as text, booleans too. Raises HostError for anything else."""
    if isinstance(label, bool):
        return str(label).lower()
    if not isinstance(label, str) or not label:
        raise _label_error("INPUT_INVALID_LABELS", "Labels must be texts that are not empty")
    return label


def _label_error(code: str, text: str) -> HostError:
    return HostError(errors.jina(400, text, code))


def _inputs(body: Json, model: Embedder) -> list[Piece]:
    given = body.get("input")
    values = given if isinstance(given, list) else [given]
    if given is None or not values:
        raise HostError(errors.jina_validation([problem("input", "Field required", "missing", given)]))
    return _pieces(values, model)


def _pieces(values: list[Any], model: Embedder) -> list[Piece]:
    """The inputs, read. Raises HostError if there are too many, or if texts and images are mixed."""
    if len(values) > MOST_INPUTS:
        text = f"Each input list can contain at most {MOST_INPUTS} items"
        raise HostError(errors.jina_validation([problem("input", text, "value_error", values)]))
    pieces = []
    for at, value in enumerate(values):
        allowed = ("text", "image") if "image" in model.inputs else ("text",)
        fits = (isinstance(value, str) and value) or (isinstance(value, dict) and set(value) & set(allowed))
        try:
            pieces.append(embedding.read(value if fits else None))
        except ValueError as error:
            wrong = problem(f"input.{at}", str(error), "value_error", value)
            raise HostError(errors.jina_validation([wrong])) from error
    if len({piece.kind for piece in pieces}) > 1:
        text = "Texts and images cannot be mixed in one request"
        raise HostError(errors.jina_validation([problem("input", text, "value_error", values)]))
    return pieces


def _samples(body: Json, model: Embedder, least: int) -> list[tuple[Piece, str]]:
    """The texts or images to train with, and their labels."""
    given = body.get("input")
    values = [given] if isinstance(given, dict) else given
    if not isinstance(values, list) or len(values) < least:
        text = f"List should have at least {least} items after validation"
        raise HostError(errors.jina_validation([problem("input", text, "too_short", given)]))
    unlabelled = [at for at, value in enumerate(values) if not isinstance(value, dict) or "label" not in value]
    if unlabelled:
        field_name = f"input.{unlabelled[0]}.label"
        raise HostError(errors.jina_validation([problem(field_name, "Field required", "missing", values)]))
    labels = [_label(value["label"]) for value in values]
    if least > 1 and len(set(labels)) < 2:
        raise _label_error("INPUT_INVALID_LABELS", "At least 2 labels are needed")
    bare = [{name: inner for name, inner in value.items() if name != "label"} for value in values]
    return list(zip(_pieces(bare, model), labels, strict=True))


def _iterations(body: Json) -> int:
    rounds = body.get("num_iters", _USUAL_ITERATIONS)
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        wrong = problem("num_iters", "Input should be greater than or equal to 1", "greater_than_equal", rounds)
        raise HostError(errors.jina_validation([wrong]))
    return rounds


def _sum(samples: list[Features]) -> Features:
    total: Features = {}
    for sample in samples:
        for name, weight in sample.items():
            total[name] = total.get(name, 0.0) + weight
    return total


def _classified(at: int, piece: Piece, wanted: dict[str, dict[str, Features]], *, grouped: bool) -> Json:
    """The item of an input: with groups its prediction, score and predictions are by group."""
    scored = {name: _scores(piece, labels) for name, labels in wanted.items()}
    best = {name: max(found, key=lambda one: float(one["score"])) for name, found in scored.items()}
    predicted: Any = {name: one["label"] for name, one in best.items()}
    score: Any = {name: one["score"] for name, one in best.items()}
    predictions: Any = scored
    if not grouped:
        [predicted], [score], [predictions] = predicted.values(), score.values(), scored.values()
    item = {"object": "classification", "index": at, "prediction": predicted, "score": score}
    return {**item, "predictions": predictions}


def _scores(piece: Piece, labels: dict[str, Features]) -> list[Json]:
    """The scores of the labels in their order; they add up to 1."""
    weights = [math.exp(_SHARPNESS * vectors.cosine(piece.features, features)) for features in labels.values()]
    total = sum(weights)
    return [{"label": label, "score": round(weight / total, 8)} for label, weight in zip(labels, weights, strict=True)]
