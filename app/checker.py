"""The process that ``conformity`` starts: a schema and an answer in, the first thing that does not fit out.

stdin: {"schema": object, "answer": JSON text}. stdout: nothing if the answer fits, else a place and the keyword.
"""

from __future__ import annotations

import sys

import jsonschema_rs
import msgspec

BACKTRACKS = 1_000_000  # of a pattern, for each string; the time for all of them is the parent's to keep


def misfit(schema: dict[str, object], answer: str) -> str:
    validator = jsonschema_rs.validator_for(
        schema, offline=True, pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS)
    )
    for error in validator.iter_errors(msgspec.json.decode(answer)):
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        return f"answer{place} fails {error.kind.name!r}"
    return ""


if __name__ == "__main__":
    question = msgspec.json.decode(sys.stdin.buffer.read())
    sys.stdout.write(misfit(question["schema"], question["answer"]))
