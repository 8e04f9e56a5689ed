"""The handling of the fields that all endpoints have in common."""

from __future__ import annotations

from typing import Any

from ..core.errors import InvalidRequest
from ..core.parameters import LITELLM, dropped
from ..core.types import EndpointName, Json

# Fields by which other gateways and SDKs let a caller set the upstream's address, so that the call and the provider's
# key go to a host of the caller's choice (LiteLLM's CVE-2024-6587), or set credentials. No model has a parameter with
# one of these names.
FORBIDDEN = frozenset(
    [
        "api_base",
        "base_url",
        "api_key",
        "api_version",
        "api_type",
        "organization",
        "project",
        "headers",
        "extra_headers",
        "extra_query",
        "extra_body",
        "default_headers",
        "proxy",
        "proxies",
        "custom_llm_provider",
        "deployment_id",
        "azure_ad_token",
        "azure_endpoint",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "aws_region_name",
        "aws_bedrock_runtime_endpoint",
        "vertex_credentials",
        "vertex_project",
        "vertex_location",
    ]
)


def unsent(endpoint: EndpointName) -> frozenset[str]:
    """The fields that are never sent upstream: those of FORBIDDEN, and those that every provider ignores."""
    return FORBIDDEN | dropped(endpoint)


def copied(body: Json, unsent: frozenset[str]) -> Json:
    """A copy of ``body`` without the fields of ``unsent`` and LiteLLM's own."""
    return {name: value for name, value in body.items() if name not in unsent and name[:8] != LITELLM}


def given(body: Json, unsent: frozenset[str]) -> Json:
    """As ``copied``, also without fields that are null, which request nothing."""
    return {
        name: value for name, value in body.items() if value is not None and name not in unsent and name[:8] != LITELLM
    }


def whole_number(name: str, value: Any) -> int:
    """``value``, an integer of at least 1. Raises InvalidRequest for anything else, even a string of digits."""
    if type(value) is not int or value < 1:
        raise InvalidRequest(f"{name} must be a whole number of at least 1", param=name)
    return value


def model_of(body: Json) -> str:
    """Removes ``model`` from ``body`` and returns it. Raises InvalidRequest if it is missing."""
    model = body.pop("model", None)
    if not isinstance(model, str) or not model.strip():
        raise InvalidRequest("model is missing: GET /v1/models lists the models", param="model")
    return model


def classifier_of(body: Json) -> str:
    """Removes ``classifier_id`` from ``body`` and returns it; empty without one. Raises InvalidRequest for an invalid
    one, and if there is no model either."""
    if "classifier_id" not in body:
        if "model" not in body:
            raise InvalidRequest(
                "model is missing: send a model (GET /v1/models lists the models), or the classifier_id of a "
                "classifier (GET /v1/classifiers lists yours)",
                param="model",
            )
        return ""
    given = body.pop("classifier_id")
    if not isinstance(given, str) or not given.strip() or len(given) > 256:
        raise InvalidRequest("classifier_id must be the id of a classifier", param="classifier_id")
    if not isinstance(body.get("model", ""), str):
        raise InvalidRequest("model must be a text, or left out with a classifier_id", param="model")
    return given


IMAGES = ("image", "url", "bytes", "image_url")


def kind_of_input(item: Any, place: str, forms: str) -> str:
    """``text`` or ``image``. Raises InvalidRequest for anything else, and for an empty one."""
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict):
        raise InvalidRequest(f"{place} must be {forms}", param="input")
    kinds = {"text" if name == "text" else "image" for name in item if name == "text" or name in IMAGES}
    if len(kinds) > 1:
        raise InvalidRequest(f"{place} is both a text and an image: send one of them", param="input")
    if not kinds or any(not value for name, value in item.items() if name == "text" or name in IMAGES):
        raise InvalidRequest(f"{place} is empty, or is not {forms}", param="input")
    return kinds.pop()


def total_usage(usages: list[Json]) -> Json:
    """The sums of the counts of all parts of a call; empty if the upstreams gave none."""
    total: Json = {}
    for usage in usages:
        for name, count in usage.items():
            total[name] = total[name] + count if isinstance(count, int) and isinstance(total.get(name), int) else count
    return total


def usage_shown(usage: Json) -> Json:
    """Usage with both counts that clients read: ``prompt_tokens`` and ``total_tokens``.

    Rerankers and newer models give only the total, which then is both. Without any usage both are 0, because clients
    crash if the field is missing.
    """
    total = usage.get("total_tokens", usage.get("prompt_tokens", 0))
    return {**usage, "prompt_tokens": usage.get("prompt_tokens", total), "total_tokens": total}
