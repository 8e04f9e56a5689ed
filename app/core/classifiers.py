"""The calls of Jina's classifier and segmenter, and the errors that only they have.

A classifier is what a call to ``train`` makes. It lives at one account of the provider, under an id that the provider
chooses.
"""

from __future__ import annotations

from .errors import InvalidRequest, Unavailable, UpstreamRejected
from .types import Call, EndpointFacts

# Labels in the request: equal calls have equal answers.
CLASSIFY = EndpointFacts("classify", pure=True, items="data", texts=("input", "labels"), echoes=True, api="classify")
# A classifier's id in the request: training changes the answers.
FEW_SHOT = EndpointFacts("classify", items="data", texts=("input",), api="train", owned=True)
TRAIN = EndpointFacts("train", texts=("input",), api="train", once=True, owned=True)
CLASSIFIERS = EndpointFacts("classifiers", api="classifiers")  # listing and deleting; no model answers
SEGMENT = EndpointFacts("segment", pure=True, echoes=True, api="segment")

SEGMENTER = "jina-segment"  # the name of the segmenter among the models
CLASSIFIER = "jina-classifier"  # the name of the model of a classifier that this gateway does not know
MOST_INPUTS = 512  # of a request to classify
NUM_ITERS = 10  # the provider's default


class ClassifyCall(Call, frozen=True, kw_only=True):
    """``body["input"]`` is always a list. ``labels`` are in the body, or ``classifier`` is the id of a classifier."""

    endpoint: EndpointFacts = CLASSIFY
    classifier: str = ""


class TrainCall(Call, frozen=True, kw_only=True):
    """``body["input"]`` is always a list of examples. ``classifier`` is the id of the classifier to update, empty for a
    new one. ``passes`` is the number of iterations."""

    endpoint: EndpointFacts = TRAIN
    classifier: str = ""

    @property
    def labels(self) -> list[str]:
        """The labels of the examples, each once, in their order."""
        return list(dict.fromkeys(example["label"] for example in self.body["input"]))


class SegmentCall(Call, frozen=True, kw_only=True):
    endpoint: EndpointFacts = SEGMENT


# The call of a request to list or delete classifiers.
ABOUT_CLASSIFIERS = Call(endpoint=CLASSIFIERS, model=CLASSIFIER, body={})


class ClassifierNotFound(InvalidRequest):
    """No such classifier, or not the caller's: the answer does not say which."""

    status = 404
    code = "classifier_not_found"


def no_such_classifier(param: str = "classifier_id") -> ClassifierNotFound:
    return ClassifierNotFound(
        "there is no classifier of yours with this id; GET /v1/classifiers lists your classifiers", param=param
    )


class ResourceLimit(UpstreamRejected):
    """The plan of the gateway's account allows no more, or no larger, classifiers."""

    status = 403
    code = "resource_limit"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.status = type(self).status


class ClassifierBusy(UpstreamRejected):
    """The classifier is being changed by another call."""

    status = 409
    code = "classifier_busy"
    should_retry = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.status = type(self).status
        self.retry_after = 2.0


class UpstreamClassifierMissing(UpstreamRejected):
    """The account does not have the classifier: it was deleted there."""

    status = 404
    code = "classifier_gone"


class ClassifierAccountMissing(Unavailable):
    """The account that has the classifier is not in the configuration any more."""

    code = "classifier_account_missing"
    should_retry = False
