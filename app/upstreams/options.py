"""Options of Jina's models: each model has its own, and refuses all others.

"Extra inputs are not permitted" is what api.jina.ai says of an option that a model has not, be it ``false`` or null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import InvalidRequest
from ..core.names import nearest, not_one_of
from ..core.parameters import TABLE, Field
from ..core.types import EndpointName, Json, Model, Target
from .catalogue import CATALOGUE, known

INPUT_TYPES = ("query", "document")

# The fields of which not every one goes on.
JUDGED: Mapping[EndpointName, Mapping[str, Field]] = {
    endpoint: {name: field for name, field in fields.items() if field.jina in ("option", "dropped", "refused")}
    for endpoint, fields in TABLE.items()
}

# What is known of a model, and what is said of it here: the configuration adds to what is known.
Models = tuple[Model, Model]


def fitting(body: Json, target: Target, endpoint: EndpointName) -> Json:
    """The fields that go on to the target's model; all options where nothing is known of it.

    Raises InvalidRequest for what the model cannot do.
    """
    judged, entry = JUDGED[endpoint], known(target.name)
    models = (entry.model, target.model) if entry else None
    return {n: value for n, value in body.items() if n not in judged or _goes(n, value, judged[n], models)}


def _goes(name: str, value: Any, field: Field, models: Models | None) -> bool:
    if field.jina == "option":
        return models is None or _option(name, value, field.default, models)
    if field.jina == "refused" and not _asks_nothing(value):
        raise InvalidRequest(f"{models[0].id if models else 'the model'} has no option {name}: omit it", param=name)
    return False


def _asks_nothing(value: Any) -> bool:
    """Of Cohere's ``relevant_spans``, which have a mode."""
    return not value or (isinstance(value, dict) and value.get("mode") == "disabled")


def _option(name: str, value: Any, default: Any, models: Models) -> bool:
    """True if the option is sent."""
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
    """True if the model does so without being asked."""
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


# What is to be right of the value of an option that the model has; each raises InvalidRequest.
CHECKS: Mapping[str, Callable[[Any, Model, Model], None]] = {
    "dimensions": _check_dimensions,
    "input_type": _check_input_type,
    "task": _check_task,
}
