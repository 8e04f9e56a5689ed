"""Cache keys: digests of what a call asks a target for. Equal keys have equal answers.

In a key is all that is sent, and where to: the URL, the upstream's name of the model, every field of the body, the
input. So a default that is written out and one that is left out are two keys, and a field of tomorrow is in the key
before anybody here knows it. The encoding that the caller wants is not: what is kept is what the upstream wrote.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import replace

from ..core.types import Call, Json, Target

SIZE = 20  # bytes of a key
VERSION = b"torii-cache-1"  # a new one for whatever changes what an entry means

# Options under which each input has the vector that it would have alone. Under any other, late_chunking among
# them, inputs may depend on one another: such a call is one entry, as a whole and in its order.
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
    """A key for each input, in order; or a single one for the call as a whole. ``owner`` has entries of their own."""
    body = target.upstream.body(call, target)
    endpoint = call.endpoint
    inputs = body[endpoint.inputs] if endpoint.inputs else None
    options = {name: value for name, value in body.items() if name != endpoint.inputs}
    independent = isinstance(inputs, list) and _are_independent(options) and (len(inputs) == 1 or not _has_pdf(inputs))
    shared = options if independent else body
    # JSON has no bare line ends, so nothing of one part can be taken for the other.
    scope = _json.encode([owner, endpoint.name, target.upstream.url(call, target), target.name, independent, shared])
    base = blake2b(scope + b"\n", digest_size=SIZE, person=VERSION)
    return [_key(base, item) for item in inputs] if independent and inputs else [base.digest()]


def kind_of(call: Call, target: Target) -> bytes | None:
    """Equal ones can be asked for together at ``target``. None for a call whose inputs may depend on one another, and
    for one with a PDF, which has to be sent alone."""
    body = target.upstream.body(call, target)
    inputs = body.pop(call.endpoint.inputs)
    if not isinstance(inputs, list) or _has_pdf(inputs):
        return None
    if not _are_independent(body):
        return None
    return _json.encode([target.upstream.url(call, target), target.name, body])


def part_of(call: Call, place: int, keys: list[bytes]) -> Call:
    """The call whose only key is the one at ``place`` of ``keys``; for floats, since most vectors are checked as these
    in the shortest time."""
    if not call.endpoint.inputs:
        return call
    inputs = call.body[call.endpoint.inputs] if len(keys) == 1 else [call.body[call.endpoint.inputs][place]]
    return replace(call, body={**call.body, call.endpoint.inputs: inputs}, encoding="float")


def _key(base: blake2b, item: Any) -> bytes:
    digest = base.copy()
    digest.update(_json.encode(item))
    return digest.digest()


def _has_pdf(inputs: list[Any]) -> bool:
    """True if one of them has a vector for each of its pages if it is sent alone, and one vector if it is not."""
    return dict in map(type, inputs) and any(isinstance(item, dict) and "pdf" in item for item in inputs)


def _are_independent(options: Json) -> bool:
    """True if no input can depend on another. A list among the options may have a value for each input."""
    return all(
        (name in INDEPENDENT_OPTIONS and not isinstance(value, list | dict)) or (name == "late_chunking" and not value)
        for name, value in options.items()
    )
