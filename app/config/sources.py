"""Sources of settings, and the messages for mistakes in them.

    command line > environment > secret files > configuration file > built-in values

Every source remembers the names of its values, so that a mistake is reported with its file, line and key, or with its
variable. Messages never quote a value: it could be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from ..storage.files import read

Keys = tuple[str | int, ...]
Values = dict[str, Any]

PREFIX = "TORII_"
CONFIG_VARIABLE = "TORII_CONFIG"
SECRETS_VARIABLE = "TORII_SECRETS_DIR"
STARTED_BY_VARIABLE = "TORII_STARTED_BY"  # set by `make run`, so that hints name its commands
SECRETS_DIRECTORY = Path("/run/secrets")

# Each can be a variable, a variable with the suffix _FILE, or a secret file of the name in lower case.
CREDENTIALS: Mapping[str, tuple[str, ...]] = {
    "JINA_API_KEY": ("upstreams", "jina", "api_key"),
    "AIHUBMIX_API_KEY": ("upstreams", "aihubmix", "api_key"),
    "TORII_CALLER_KEY": ("caller_key",),
    "TORII_OPERATOR_KEY": ("operator_key",),
}
_NOT_SETTINGS = (
    *(CONFIG_VARIABLE, SECRETS_VARIABLE, STARTED_BY_VARIABLE),
    *(f"{variable}_FILE" for variable in CREDENTIALS if variable.startswith(PREFIX)),
)
# Kubernetes and Docker links set these variables in every container that sees a service named "torii".
_SERVICE_LINK = re.compile(r"TORII_(SERVICE_(HOST|PORT)(_.*)?|PORT_\d+_(TCP|UDP).*|NAME|ENV_.*)")

# Present names of renamed settings by their former names. The error for a former name gives the present name.
RENAMED: Mapping[Keys, Keys] = {
    ("pace_seconds",): ("queue_timeout_seconds",),
    ("max_calls",): ("max_concurrent_calls",),
    ("sandbox_pace",): ("sandbox_time_scale",),
    ("timeouts", "head_seconds"): ("timeouts", "request_head_seconds"),
    ("timeouts", "body_seconds"): ("timeouts", "request_body_seconds"),
}

QUOTED = "is in quotes, which are part of the value here (docker run --env-file keeps them); remove the quotes"
# If more than MANY keys are allowed, a message names only the NEAREST.
MANY, NEAREST = 16, 6

_WORDS = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be the name of a file",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} entry",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "invalid_key": "the key must be text",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake: ``where`` it is, its ``key`` there, and ``what`` is wrong and allowed. As text, one line."""

    where: str
    key: str
    what: str
    keys: Keys = ()
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.where}:{self.line}" if self.line else self.where
        return ": ".join(part for part in (where, self.key, self.what) if part)


class ConfigError(Exception):
    """All mistakes of a configuration, ordered by line; mistakes of the configuration as a whole come last.

    As text, one line each.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: (not (mistake.where or mistake.key), mistake.line)))
        super().__init__("\n".join(map(str, self.mistakes)))


def dotted(keys: Keys) -> str:
    """A path as a person would write it, such as ``callers[0].key``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def _upwards(keys: Keys) -> Iterator[Keys]:
    return (keys[:depth] for depth in range(len(keys), 0, -1))


@dataclass(slots=True)
class SettingsSource:
    """Settings from one source. ``names``: the names of keys there, if they differ from ``called``."""

    where: str
    values: Values = field(default_factory=dict)
    names: dict[Keys, str] = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    called: Callable[[Keys], str] = dotted

    def mistake(self, keys: Keys, what: str) -> Mistake:
        line = next((self.lines[at] for at in _upwards(keys) if at in self.lines), 0)
        if keys in RENAMED:
            what = f"was renamed; use {self.called(RENAMED[keys])} instead"
        return Mistake(self.where, self.names.get(keys) or self.called(keys), what, keys, line)

    def depth(self, keys: Keys) -> int:
        """The number of the path's leading keys that this source sets."""
        value: Any = self.values
        for depth, key in enumerate(keys):
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return depth
        return len(keys)


def blame(sources: Sequence[SettingsSource], keys: Keys, what: str) -> Mistake:
    """The mistake, in the source that set the key: the first one, whose value is in force."""
    source = max(sources, key=lambda source: source.depth(keys))
    return source.mistake(keys, what) if source.depth(keys) else Mistake("", dotted(keys), what, keys)


def meant(name: object, allowed: Iterable[str]) -> str | None:
    """The allowed key that ``name`` probably misspells; None if none is near."""
    return next(iter(difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)), None)


def unknown_key(name: object, allowed: Iterable[str]) -> str:
    """The message for an unknown key; lists the allowed keys, the nearest first."""
    near = meant(name, allowed := list(allowed))
    ranked = difflib.get_close_matches(str(name), allowed, n=len(allowed), cutoff=0.0)
    shown = ranked if len(ranked) <= MANY else ranked[:NEAREST]
    rest = f" and {len(ranked) - NEAREST} more, see docs/configuration.md" if len(ranked) > MANY else ""
    return f"unknown key; {f'did you mean {near}? ' if near else ''}Allowed: {', '.join(shown)}{rest}"


def quoted(text: str) -> bool:
    """True if quotes enclose the value, as `docker run --env-file` keeps them for NAME="value"."""
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"


# ---------------------------------------------------------------- environment and secret files


def environment(settings: type[BaseSettings]) -> SettingsSource:
    """Settings from ``TORII_PORT``, ``TORII_TIMEOUTS__IDLE_SECONDS`` and so on; empty variables are ignored."""
    source = SettingsSource("environment", called=lambda keys: PREFIX + "__".join(map(str, keys)).upper())
    variables = _Variables(settings)
    source.values = variables()
    source.mistakes += _quoted()
    source.mistakes += [source.mistake((name,), "must be JSON") for name in variables.wrong]
    if str(source.values.get("port", "")).startswith("tcp://"):
        del source.values["port"]
    known = tuple(settings.model_fields)
    for variable in _foreign(known):
        name = variable.removeprefix(PREFIX).partition("__")[0].lower()
        what = unknown_key(name, known).replace("key", "setting", 1)
        renamed = (name,) in RENAMED
        source.mistakes.append(source.mistake((name,), what) if renamed else Mistake("environment", variable, what))
    return source


class _Variables(EnvSettingsSource):
    """Collects in ``wrong`` the fields whose variables are not valid JSON, instead of raising."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)
        self.wrong: list[str] = []
        self.env_vars = {name: value for name, value in self.env_vars.items() if not quoted(value or "")}

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        try:
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        except ValueError:
            self.wrong.append(field_name)
            return None


def _quoted() -> Iterator[Mistake]:
    for variable in sorted(os.environ):
        ours = variable.startswith(PREFIX) or variable.removesuffix("_FILE") in CREDENTIALS
        if ours and quoted(os.environ[variable].strip()):
            keys = CREDENTIALS.get(variable) or tuple(variable.removeprefix(PREFIX).lower().split("__"))
            yield Mistake("environment", variable, QUOTED, keys)


def _foreign(known: Sequence[str]) -> Iterator[str]:
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX).partition("__")[0].lower()
        if not os.environ[variable] or not variable.startswith(PREFIX) or name in known or variable in _NOT_SETTINGS:
            continue
        if not _SERVICE_LINK.fullmatch(variable):
            yield variable


def credentials() -> list[SettingsSource]:
    """The keys with variables of their own: from the environment, then from secret files."""
    variables, files = SettingsSource("environment"), SettingsSource("secret file")
    directory = _secrets_directory(files)
    for variable, keys in CREDENTIALS.items():
        if value := os.environ.get(variable, "").strip():
            _put(variables, keys, variable, value)
        elif secret := _secret_file(variable, directory):
            named = os.environ.get(f"{variable}_FILE")
            _put_file(variables if named else files, keys, secret, f"{variable}_FILE" if named else str(secret))
    return [variables, files]


def secret_files() -> list[Path]:
    """The secret files that ``credentials`` reads."""
    directory = _secrets_directory(SettingsSource(""))
    unset = [variable for variable in CREDENTIALS if not os.environ.get(variable, "").strip()]
    return [secret for variable in unset if (secret := _secret_file(variable, directory))]


def _secret_file(variable: str, directory: Path | None) -> Path | None:
    if named := os.environ.get(f"{variable}_FILE"):
        return Path(named)
    return secret if directory and (secret := directory / variable.lower()).exists() else None


def _secrets_directory(source: SettingsSource) -> Path | None:
    directory = Path(os.environ.get(SECRETS_VARIABLE) or SECRETS_DIRECTORY)
    if directory.is_dir():
        return directory
    if os.environ.get(SECRETS_VARIABLE):
        source.mistakes.append(Mistake("environment", SECRETS_VARIABLE, f"{directory} is not a directory"))
    return None


def _put_file(source: SettingsSource, keys: tuple[str, ...], path: Path, name: str) -> None:
    try:
        value = read(path).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is not UTF-8 text"
        what = f"cannot be read: {reason}" if name == str(path) else f"{path} cannot be read: {reason}"
        source.mistakes.append(Mistake(source.where, name, what))
        return
    if value:
        _put(source, keys, name, value)


def _put(source: SettingsSource, keys: tuple[str, ...], name: str, value: str) -> None:
    at = source.values
    for key in keys[:-1]:
        at = at.setdefault(key, {})
    at[keys[-1]] = value
    source.names[keys] = name


# ---------------------------------------------------------------- validation errors


def explain(error: ValidationError, settings: type[BaseModel]) -> Iterator[tuple[Keys, str]]:
    """The path and the message of every mistake; never with the value."""
    for found in error.errors(include_url=False):
        keys = tuple(key for key in found["loc"] if key != "[key]")
        yield keys, worded(found, keys, settings)


def worded(found: Any, keys: Keys, form: Any) -> str:
    """The message for ``found``, one of pydantic's errors, about the value at the path ``keys`` in the type ``form``.
    Pydantic's own text is not used, because it changes with its version."""
    kind, context = found["type"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(keys[-1], _model_at(form, keys[:-1]).model_fields)
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing" and isinstance(found["input"], dict):
        choices = _choices(form, keys)
        return f"is missing; one of {', '.join(choices)}" if choices else "is missing"
    if kind == "literal_error":
        *most, last = map(repr, _choices(form, keys))
        return f"must be {', '.join(most)} or {last}" if most else f"must be {last}"
    if kind == "string_type" and isinstance(found["input"], (int, float, date)):
        return "must be text; put it in quotes"
    return _WORDS.get(kind, "cannot be used").format(**context)


def _choices(settings: Any, keys: Keys) -> tuple[str, ...]:
    """The words that the field at the path allows; empty if it is not limited to words."""
    annotation = _annotation_at(settings, keys)
    return next((get_args(kind) for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal), ())


def _model_at(settings: Any, keys: Keys) -> type[BaseModel]:
    """The model at the path."""
    found: type[BaseModel] = _bare(_annotation_at(settings, keys))
    return found


def _annotation_at(annotation: Any, keys: Keys) -> Any:
    for key in keys:
        annotation = _bare(annotation)
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        annotation = annotation.model_fields[str(key)].annotation if is_model else get_args(annotation)[-1]
    return annotation


def _bare(annotation: Any) -> Any:
    """The type inside Optional or Annotated."""
    if get_origin(annotation) in (dict, list) or not get_args(annotation):
        return annotation
    return _bare(next(choice for choice in get_args(annotation) if choice is not type(None)))
