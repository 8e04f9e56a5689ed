"""Cache keys: digests of what a call asks a target for. Equal keys have equal answers.

A key covers all that is sent, and its destination: the URL, the upstream's name of the model, every field of the body,
the input. So a default that is written out and one that is left out have two keys, and a new field of the API is in the
key before this code knows it. The caller's encoding is not in the key: entries hold what the upstream wrote.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import replace

from ..core.types import Call, Json, Target

SIZE = 20  # bytes of a key
VERSION = b"torii-cache-1"  # to be changed with the meaning of an entry

# Options under which each input has the vector that it would have alone. Under any other option, such as late_chunking,
# inputs may depend on one another: such a call is one entry, as a whole and in its order.
INDEPENDENT_OPTIONS = frozenset(
    [
        "dimensions",
        "encoding_format",
        "input_type",
        "normalized",
        "return_multivector",
        "return_tokenized_input",
        "task",
        "truncate",
    ]
)

_json = msgspec.json.Encoder(order="deterministic")


def keys_of(call: Call, target: Target, owner: str = "") -> list[bytes]:
    """A key for each input, in order; or a single key for the call as a whole. Each ``owner`` has its own entries."""
    body = target.upstream.body(call, target)
    endpoint = call.endpoint
    inputs = body[endpoint.inputs] if endpoint.inputs else None
    options = {name: value for name, value in body.items() if name != endpoint.inputs}
    independent = isinstance(inputs, list) and _are_independent(options) and (len(inputs) == 1 or not _has_pdf(inputs))
    shared = options if independent else body
    # JSON has no raw newline, so the scope and the input cannot be mistaken for each other.
    scope = _json.encode([owner, endpoint.name, target.upstream.url(call, target), target.name, independent, shared])
    base = blake2b(scope + b"\n", digest_size=SIZE, person=VERSION)
    return [_key(base, item) for item in inputs] if independent and inputs else [base.digest()]


def kind_of(call: Call, target: Target) -> bytes | None:
    """Calls of equal kinds can be batched at ``target``. None for a call whose inputs may depend on one another, and
    for one with a PDF, which has to be sent alone."""
    body = target.upstream.body(call, target)
    inputs = body.pop(call.endpoint.inputs)
    if not isinstance(inputs, list) or _has_pdf(inputs):
        return None
    if not _are_independent(body):
        return None
    return _json.encode([target.upstream.url(call, target), target.name, body])


def part_of(call: Call, place: int, keys: list[bytes]) -> Call:
    """The part of a call that the key at ``place`` of ``keys`` stands for. Its encoding is float, in which most vectors
    are checked fastest."""
    if not call.endpoint.inputs:
        return call
    inputs = call.body[call.endpoint.inputs] if len(keys) == 1 else [call.body[call.endpoint.inputs][place]]
    return replace(call, body={**call.body, call.endpoint.inputs: inputs}, encoding="float")


def _key(base: blake2b, item: Any) -> bytes:
    digest = base.copy()
    digest.update(_json.encode(item))
    return digest.digest()


def _has_pdf(inputs: list[Any]) -> bool:
    """True if an input is a PDF, which has a vector for each page if it is sent alone, and one vector otherwise."""
    return dict in map(type, inputs) and any(isinstance(item, dict) and "pdf" in item for item in inputs)


def _are_independent(options: Json) -> bool:
    """True if no input can depend on another. An option that is a list may have a value for each input."""
    return all(
        (name in INDEPENDENT_OPTIONS and not isinstance(value, list | dict)) or (name == "late_chunking" and not value)
        for name, value in options.items()
    )
