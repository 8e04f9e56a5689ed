"""POST /v1/train: a new classifier from labelled examples, or further examples for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from ..core.classifiers import NUM_ITERS, TRAIN, TrainCall
from ..core.errors import InvalidRequest
from ..core.names import not_one_of
from ..core.types import Json
from .endpoint import Endpoint, Options
from .fields import classifier_of, given, kind_of_input, model_of, unsent, whole_number

UNSENT = unsent("train") | {"_token"}

MOST_EXAMPLES = 512
LEAST_EXAMPLES = LEAST_LABELS = 2
MOST_ITERS = 10_000  # a limit of ours: the tokens, which are multiplied by it, must stay numbers that a ledger can hold
EXAMPLE = "{'text': ..., 'label': ...} or {'image': ..., 'label': ...}"
ACCESS = ("private", "public")


@dataclass(frozen=True, slots=True)
class Train(Endpoint):
    """The train endpoint. ``public``: a caller may make a classifier that anyone can use who knows its id."""

    facts: ClassVar = TRAIN
    paths: ClassVar = ("/v1/train",)

    public: bool = False

    @classmethod
    def configured(cls, options: Options) -> Train:
        return cls(options.public_classifiers)

    def parse(self, body: Json, path: str) -> TrainCall:
        body = given(body, UNSENT)
        classifier = classifier_of(body)
        model = body.pop("model", "") if classifier else model_of(body)
        body["input"] = _examples(body, update=bool(classifier))
        if "num_iters" in body:
            _check_iters(body["num_iters"])
        if classifier and "access" in body:
            raise InvalidRequest("access can be chosen for a new classifier only", param="access")
        if not classifier:
            body["access"] = self._access(body.get("access", "private"))
        return TrainCall(model=model, body=body, classifier=classifier, passes=body.get("num_iters", NUM_ITERS))

    def render(self, call: TrainCall, reply: Json) -> bytes:
        """The provider's own fields; ``usage`` only if the provider gave one."""
        return msgspec.json.encode({name: value for name, value in reply.items() if name != "usage" or value})

    def _access(self, asked: Any) -> str:
        if asked not in ACCESS:
            raise not_one_of("access", asked, ACCESS)
        if asked == "public" and not self.public:
            raise InvalidRequest(
                "access must be private: this gateway makes no public classifiers (classifiers.public)", param="access"
            )
        return str(asked)


def _check_iters(given: Any) -> None:
    if whole_number("num_iters", given) > MOST_ITERS:
        raise InvalidRequest(f"num_iters must be at most {MOST_ITERS:,}", param="num_iters")


def _examples(body: Json, *, update: bool) -> list[Json]:
    """The examples as a list. Raises InvalidRequest."""
    found = body.get("input")
    if found is None:
        raise InvalidRequest(f"input is missing: send a list of {EXAMPLE}", param="input")
    examples = [found] if update and isinstance(found, dict) else found
    if not isinstance(examples, list):
        raise InvalidRequest(f"input must be a list of {EXAMPLE}", param="input")
    if len(examples) > MOST_EXAMPLES:
        raise InvalidRequest(f"input has {len(examples)} examples; at most {MOST_EXAMPLES} are possible", param="input")
    for place, example in enumerate(examples):
        _check(example, f"input[{place}]")
    if not examples or (not update and len(examples) < LEAST_EXAMPLES):
        least = 1 if update else LEAST_EXAMPLES
        count = f"{len(examples)} example" + "s" * (len(examples) != 1)
        raise InvalidRequest(f"input has {count}; at least {least} are needed", param="input")
    if not update and len({example["label"] for example in examples}) < LEAST_LABELS:
        raise InvalidRequest(
            f"input has examples of one label only; a classifier needs at least {LEAST_LABELS} labels", param="input"
        )
    return examples


def _check(example: Any, place: str) -> None:
    if not isinstance(example, dict):
        raise InvalidRequest(f"{place} must be {EXAMPLE}", param="input")
    label = example.get("label")
    if not isinstance(label, str) or not label:
        raise InvalidRequest(f"{place}.label must be a text that is not empty", param="input")
    kind_of_input({name: value for name, value in example.items() if name != "label"}, place, EXAMPLE)
