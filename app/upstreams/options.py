"""Options of Jina's models: each model has options of its own, and refuses all others.

For an option that a model does not have, even ``false`` or null, api.jina.ai answers "Extra inputs are not permitted".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import InvalidRequest
from ..core.names import nearest, not_one_of
from ..core.parameters import TABLE, Field
from ..core.types import EndpointName, Json, Model, Target
from .catalogue import CATALOGUE, CatalogueEntry, known

INPUT_TYPES = ("query", "document")
MAX_DOC_LENGTH = 8192
BOOLEANS = (
    "late_chunking",
    "normalized",
    "return_embeddings",
    "return_multivector",
    "return_tokenized_input",
    "truncate",
)

# The fields that are not always sent to Jina's models.
JUDGED: Mapping[EndpointName, Mapping[str, Field]] = {
    endpoint: {name: field for name, field in fields.items() if field.jina in ("option", "dropped", "refused")}
    for endpoint, fields in TABLE.items()
}

# A model's entry in the catalogue, and the model with what the configuration adds to it.
Models = tuple[Model, Model]


def fitting(body: Json, target: Target, endpoint: EndpointName) -> Json:
    """The fields to be sent to the target's model; all options if the catalogue does not have the model.

    Raises InvalidRequest for an option that the model does not have, for an invalid value of one that it has, and for
    two that exclude each other.
    """
    judged, entry = JUDGED[endpoint], known(target.name)
    models = (entry.model, target.model) if entry else None
    if models:
        _check_together(body, models[0])
    return {n: value for n, value in body.items() if n not in judged or _goes(n, value, judged[n], models)}


def _goes(name: str, value: Any, field: Field, models: Models | None) -> bool:
    if field.jina == "option":
        return models is None or _option(name, value, field.default, models)
    if field.jina == "refused" and not _asks_nothing(value):
        raise InvalidRequest(f"{models[0].id if models else 'the model'} has no option {name}: omit it", param=name)
    return False


def _asks_nothing(value: Any) -> bool:
    """True if the value requests nothing; Cohere's ``relevant_spans`` may have the mode ``disabled``."""
    return not value or (isinstance(value, dict) and value.get("mode") == "disabled")


def _option(name: str, value: Any, default: Any, models: Models) -> bool:
    """True if the option is sent. Raises InvalidRequest if the model cannot do what the option asks for."""
    known, here = models
    if _has(name, known) or (here is not known and _has(name, here)):
        if check := CHECKS.get(name):
            check(value, known, here)
        return True
    if (type(value) is type(default) and value == default) or _always(name, value, known):
        return False
    having = [other.model.id for other in CATALOGUE.values() if _has(name, other.model)]
    cure = f"omit it, or use a model that has it: {', '.join(nearest(known.id, having))}"
    raise InvalidRequest(f"{known.id} has no option {name}: {cure}", param=name)


def _has(name: str, model: Model) -> bool:
    return name in model.features or (name == "task" and bool(model.tasks))


def _always(name: str, value: Any, model: Model) -> bool:
    """True if the model behaves like this without the option."""
    if name == "dimensions":
        return bool(value == model.dimensions)
    return name == "return_multivector" and value is True and "multivector" in model.features


def _check_task(value: Any, known: Model, here: Model) -> None:
    allowed = here.tasks or known.tasks
    if value not in allowed:
        raise not_one_of("task", value, allowed, known.id)


def _check_input_type(value: Any, known: Model, here: Model) -> None:
    if value not in INPUT_TYPES:
        raise not_one_of("input_type", value, INPUT_TYPES, known.id)


def _check_dimensions(value: int, known: Model, here: Model) -> None:
    allowed = here.dimensions_allowed or known.dimensions_allowed
    if allowed and value not in allowed:
        raise not_one_of("dimensions", value, map(str, allowed), known.id)
    largest = max(known.largest or known.dimensions or 0, here.largest or here.dimensions or 0)
    if largest and value > largest:
        raise InvalidRequest(f"dimensions must be at most {largest} for {known.id}", param="dimensions")


def _check_together(body: Json, known: Model) -> None:
    """A vector for each token always has the same size."""
    both = body.get("return_multivector") is True and body.get("dimensions") is not None
    if both and "return_multivector" in known.features:
        told = f"{known.id} takes dimensions or return_multivector, not both: omit one"
        raise InvalidRequest(told, param="dimensions")


def _check_boolean(name: str) -> Callable[[Any, Model, Model], None]:
    def check(value: Any, known: Model, here: Model) -> None:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name} must be true or false", param=name)

    return check


# The checks of the values of options that the model has; each raises InvalidRequest.
CHECKS: Mapping[str, Callable[[Any, Model, Model], None]] = {
    "dimensions": _check_dimensions,
    "input_type": _check_input_type,
    "task": _check_task,
    **{name: _check_boolean(name) for name in BOOLEANS},
}


def parameters(model: Model, name: str) -> dict[str, Json]:
    """The options of a model as JSON Schemas by name, for those who list models; chat models have none here.

    ``name`` is the model's at its upstream. ``trained_from`` is the smallest size of a vector for which the model was
    trained.
    """
    table = {**TABLE["embeddings"], **TABLE["rerank"]}
    entry = known(name) or CatalogueEntry(model)
    found: dict[str, Json] = {
        option: {"type": "boolean", "default": table[option].default} for option in BOOLEANS if option in model.features
    }
    if "dimensions" in model.features:
        found["dimensions"] = _dimensions(model, entry.least)
    if model.tasks:
        found["task"] = {"type": "string", "enum": list(model.tasks)}
    if "input_type" in model.features:
        found["input_type"] = {"type": "string", "enum": list(INPUT_TYPES), "default": table["input_type"].default}
    if "max_doc_length" in model.features:
        found["max_doc_length"] = {"type": "integer", "minimum": 1, "maximum": MAX_DOC_LENGTH}
    for option in found.keys() & entry.defaults.keys():
        found[option]["default"] = entry.defaults[option]
    return dict(sorted(found.items()))


def _dimensions(model: Model, least: int | None) -> Json:
    usual: Json = {"default": model.dimensions} if model.dimensions else {}
    if model.dimensions_allowed:
        return {"type": "integer", "enum": list(model.dimensions_allowed), **usual}
    most = model.largest or model.dimensions
    bounds = {"minimum": 1, **({"maximum": most} if most else {})}
    return {"type": "integer", **bounds, **usual, **({"trained_from": least} if least else {})}
