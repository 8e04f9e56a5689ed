"""A made-up endpoint and a made-up upstream. ``python -m tests.made_up`` runs ``torii`` with both registered.

Both are written as they would be in a file of their own under app/endpoints or app/upstreams, and each has one entry in
its registry.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from app.core.errors import InvalidRequest, UpstreamFailed
from app.core.types import Call, EndpointFacts, EndpointName, Json, Target
from app.endpoints import ENDPOINTS, Endpoint
from app.endpoints.fields import given, model_of, unsent
from app.upstreams import KINDS, OpenAICompatible
from app.upstreams.openai import Translation


class Grade(Endpoint):
    """An endpoint that grades texts: one result for each."""

    facts = EndpointFacts("grade", pure=True, items="results", texts=("texts",))
    paths = ("/v1/grade",)
    summary = "Grade texts"
    description = "One result for each text, in order."

    def parse(self, body: Json, path: str) -> Call:
        body = given(body, unsent("grade"))
        model = model_of(body)
        if not isinstance(body.get("texts"), list):
            raise InvalidRequest("texts must be a list", param="texts")
        return Call(endpoint=self.facts, model=model, body=body)


def write_grade(upstream: Judge, call: Call, target: Target) -> Json:
    return {"of": call.body["texts"]}


class Grades(msgspec.Struct):
    results: list[Json]
    usage: Json


def read_grade(upstream: Judge, call: Call, body: bytes, status: int) -> Json:
    try:
        return msgspec.structs.asdict(msgspec.json.decode(body, type=Grades))
    except msgspec.MsgspecError:
        raise UpstreamFailed(f"{upstream.name} sent an answer that cannot be read") from None


@dataclass(frozen=True, slots=True)
class Judge(OpenAICompatible):
    endpoints: ClassVar[Mapping[EndpointName, Translation]] = {
        "grade": Translation("/judge", write_grade, read_grade),
    }

    name: str = "judge"
    base_url: str = "http://127.0.0.1:9/v1"


if __name__ == "__main__":
    ENDPOINTS["grade"] = Grade
    KINDS["judge"] = Judge
    runpy.run_module("app", run_name="__main__")
