"""The child process of ``conformity``: reads a schema and an answer, and writes the first mismatch.

Arguments: the folders of sys.path. stdin: {"schema": object, "answer": JSON text}; without an answer only the schema is
checked. stdout: nothing if all is well, else the mismatch's place and keyword, or the mistake in the schema with ``{}``
for its name.
"""

from __future__ import annotations

import sys
from contextlib import suppress

BACKTRACKS = 1_000_000  # of a pattern, for each string; the parent bounds the total time
PATTERN_BYTES = 1 << 20  # of a regular expression, compiled
MEMORY = 1 << 30  # bytes
PLACE = 200  # characters of a place that are shown


def misfit(schema: dict[str, object], answer: str | None) -> str:
    import jsonschema_rs
    import msgspec

    # Look-around in patterns is allowed: zod writes it for e-mail addresses.
    patterns = jsonschema_rs.FancyRegexOptions(
        backtrack_limit=BACKTRACKS, size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES
    )
    try:
        validator = jsonschema_rs.validator_for(schema, offline=True, pattern_options=patterns)
    except jsonschema_rs.ValidationError as wrong:
        return _wrong("".join(f".{step}" for step in wrong.instance_path), wrong.kind.name)
    except (jsonschema_rs.ReferencingError, ValueError):
        return "{} is nested too deeply, or is not a JSON schema"
    if answer is not None:
        for error in validator.iter_errors(msgspec.json.decode(answer)):
            place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
            return f"answer{_printable(place)} fails {error.kind.name!r}"
    return ""


def _wrong(place: str, keyword: str) -> str:
    if keyword == "format":
        return f"{{}}{_printable(place)} is not a regular expression that this gateway can check"
    if keyword == "$ref":
        return f"{{}}{_printable(place)} has a $ref that cannot be resolved; refer to definitions as #/$defs/<name>"
    return f"{{}}{_printable(place)} is not a valid JSON schema (its {keyword} is wrong)"


def _printable(place: str) -> str:
    """A place on one line. Its names come from the answer and may hold any characters."""
    place = "".join(sign if sign.isprintable() else "?" for sign in place[: PLACE + 1])
    return place if len(place) <= PLACE else place[:PLACE] + " ..."


def main() -> None:
    sys.path[:] = sys.argv[1:]
    with suppress(ImportError, OSError, ValueError):  # not every system has this limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import msgspec

    question = msgspec.json.decode(sys.stdin.buffer.read())
    sys.stdout.buffer.write(misfit(question["schema"], question.get("answer")).encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
