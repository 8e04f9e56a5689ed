"""Fields of a body that all endpoints have, read before each reads its own."""

from __future__ import annotations

from typing import Any

from ..core.errors import InvalidRequest
from ..core.parameters import LITELLM, dropped
from ..core.types import EndpointName, Json

# Fields that other gateways and SDKs obey: they would send the call, or the provider's key, to a place that
# the caller chose (LiteLLM's CVE-2024-6587), or bring credentials of his own. No model has a parameter of such a name.
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
    """The fields that go nowhere: what would move the target or carry credentials, and what is for nobody upstream."""
    return FORBIDDEN | dropped(endpoint)


def copied(body: Json, unsent: frozenset[str]) -> Json:
    """A copy of ``body``, to be taken apart, without the fields that go nowhere."""
    return {name: value for name, value in body.items() if name not in unsent and name[:8] != LITELLM}


def given(body: Json, unsent: frozenset[str]) -> Json:
    """As ``copied``, and without those that are null: nothing is asked for with them."""
    return {
        name: value for name, value in body.items() if value is not None and name not in unsent and name[:8] != LITELLM
    }


def whole_number(name: str, value: Any) -> int:
    """A value of 1 or more. Raises InvalidRequest for anything else, a text of digits among it."""
    if type(value) is not int or value < 1:
        raise InvalidRequest(f"{name} must be a whole number of at least 1", param=name)
    return value


def model_of(body: Json) -> str:
    """Takes ``model`` out of ``body``. Raises InvalidRequest where there is none."""
    model = body.pop("model", None)
    if not isinstance(model, str) or not model.strip():
        raise InvalidRequest("model is missing: GET /v1/models lists the models", param="model")
    return model


def total_usage(usages: list[Json]) -> Json:
    """The counts of all parts of a call, added up; empty where the upstreams gave none."""
    total: Json = {}
    for usage in usages:
        for name, count in usage.items():
            total[name] = total[name] + count if isinstance(count, int) and isinstance(total.get(name), int) else count
    return total


def usage_shown(usage: Json) -> Json:
    """Usage with both counts that clients read, where rerankers and newer models give only the total.

    An upstream without usage is shown as zero, since clients crash where the field is missing.
    """
    total = usage.get("total_tokens", usage.get("prompt_tokens", 0))
    return {**usage, "prompt_tokens": usage.get("prompt_tokens", total), "total_tokens": total}
