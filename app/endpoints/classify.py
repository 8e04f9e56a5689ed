"""POST /v1/classify: inputs by labels in the request (zero-shot), or by a classifier that was trained (few-shot)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from ..core.classifiers import CLASSIFY, FEW_SHOT, MOST_INPUTS, ClassifyCall
from ..core.errors import InvalidRequest, UpstreamFailed
from ..core.types import Call, Json
from .endpoint import Endpoint
from .fields import classifier_of, given, kind_of_input, model_of, total_usage, unsent

UNSENT = unsent("classify") | {"_token"}

MOST_LABELS, MOST_GROUPS, MOST_IN_A_GROUP = 512, 8, 64

INPUTS = "a text, {'text': ...} or {'image': ...}, or a list of texts or of images"
LABELS = "a list of labels, or an object with a list of labels for each group"


@dataclass(frozen=True, slots=True)
class Classify(Endpoint):
    """The classify endpoint. A call with many inputs is split; each input is classified by itself."""

    facts: ClassVar = CLASSIFY
    paths: ClassVar = ("/v1/classify",)

    def parse(self, body: Json, path: str) -> ClassifyCall:
        body = given(body, UNSENT)
        classifier = classifier_of(body)
        body["input"] = _inputs(body)
        if classifier:
            if "labels" in body:
                raise InvalidRequest(
                    "labels are for a call with a model; a classifier has the labels that it was trained with",
                    param="labels",
                )
            return ClassifyCall(endpoint=FEW_SHOT, model=body.pop("model", ""), body=body, classifier=classifier)
        model = model_of(body)
        body["labels"] = _labels(body.get("labels"))
        return ClassifyCall(model=model, body=body)

    def split(self, call: ClassifyCall, cap: int | None) -> list[Call]:
        inputs, most = call.body["input"], min(cap or MOST_INPUTS, MOST_INPUTS)
        if len(inputs) <= most:
            return [call]
        parts = (inputs[start : start + most] for start in range(0, len(inputs), most))
        return [replace(call, body={**call.body, "input": part}) for part in parts]

    def merge(self, call: ClassifyCall, replies: list[Json]) -> Json:
        """The parts' replies as one, with the indexes of the whole call. Raises UpstreamFailed if one is missing."""
        data = [item for reply in replies for item in reply["data"]]
        if len(data) != len(call.body["input"]):
            raise UpstreamFailed(f"{len(data)} classifications were returned for {len(call.body['input'])} inputs")
        data = [{**item, "index": place} for place, item in enumerate(data)]
        return {**replies[0], "data": data, "usage": total_usage([reply["usage"] for reply in replies])}

    def render(self, call: ClassifyCall, reply: Json) -> bytes:
        """The provider's own fields. ``usage`` always has ``total_tokens``."""
        usage = {"total_tokens": reply["usage"].get("prompt_tokens", 0), **reply["usage"]}
        return msgspec.json.encode({**reply, "usage": usage})


def _inputs(body: Json) -> list[Any]:
    """The inputs as a list, of texts or of images, never of both. Raises InvalidRequest."""
    found = body.get("input")
    if found is None:
        raise InvalidRequest(f"input is missing: send {INPUTS}", param="input")
    if isinstance(found, list):
        if not found:
            raise InvalidRequest("input is an empty list: there is nothing to classify", param="input")
        places = [(item, f"input[{place}]") for place, item in enumerate(found)]
    else:
        places = [(found, "input")]
    kinds = {kind_of_input(item, place, INPUTS): place for item, place in reversed(places)}
    if len(kinds) > 1:
        raise InvalidRequest("input holds texts and images; one call classifies either texts or images", param="input")
    texts = (item["text"] if isinstance(item, dict) and item.keys() == {"text"} else item for item, _ in places)
    return list(texts)


def _labels(labels: Any) -> Any:
    """The labels as they were sent. Raises InvalidRequest."""
    if labels is None:
        raise InvalidRequest(f"labels is missing: send {LABELS}", param="labels")
    if isinstance(labels, dict):
        if not labels:
            raise InvalidRequest("labels is empty: there is nothing to choose from", param="labels")
        if len(labels) > MOST_GROUPS:
            raise InvalidRequest(f"labels has {len(labels)} groups; at most {MOST_GROUPS} are possible", param="labels")
        for name, group in labels.items():
            _check_group(group, f"labels.{name}", MOST_IN_A_GROUP)
    else:
        _check_group(labels, "labels", MOST_LABELS)
    return labels


def _check_group(labels: Any, place: str, most: int) -> None:
    if not isinstance(labels, list):
        raise InvalidRequest(f"{place} must be {'a list of labels' if '.' in place else LABELS}", param="labels")
    if not labels:
        raise InvalidRequest(f"{place} is empty: there is nothing to choose from", param="labels")
    if len(labels) > most:
        raise InvalidRequest(f"{place} has {len(labels)} labels; at most {most} are possible", param="labels")
    for number, label in enumerate(labels):
        if not isinstance(label, str | bool | int | float) or label == "":
            raise InvalidRequest(f"{place}[{number}] must be a text that is not empty", param="labels")
