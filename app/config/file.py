"""The configuration file: its YAML, the variables in it, and error messages for both."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from ..storage.files import read
from .sources import Keys, Mistake, SettingsSource, Values

_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def read_file(path: Path) -> SettingsSource:
    """The values of a configuration file, with ``${VAR}`` and ``${VAR:-default}`` replaced; ``$${`` means ``${``."""
    source = SettingsSource(str(path))
    try:
        text = read(path).decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _survey(node, source):
            source.values = _filled(_mapping(yaml.safe_load(text), source), source)
    except OSError as error:
        source.mistakes.append(Mistake(str(path), "", f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        source.mistakes.append(Mistake(str(path), "", f"is not UTF-8 text, at byte {error.start}"))
    except yaml.YAMLError as error:
        source.mistakes.append(_unreadable(path, text, error))
    except RecursionError:
        source.mistakes.append(Mistake(str(path), "", "nested too deep"))
    except ValueError:
        source.mistakes.append(Mistake(str(path), "", "contains an invalid number or date; put it in quotes"))
    return source


def _unreadable(path: Path, text: str, error: yaml.YAMLError) -> Mistake:
    """The mistake for a YAML error. PyYAML's text is not used: it quotes the file, secrets included."""
    if isinstance(error, yaml.reader.ReaderError):
        line, what = text.count("\n", 0, error.position), "a character that YAML does not allow"
    else:
        mark = error.problem_mark  # type: ignore[attr-defined]  # every other error of it has one
        line, what = mark.line, _fault(text[mark.index :], mark.column + 1)
    return Mistake(str(path), "", f"is not YAML: {what}", line=line + 1)


def _fault(rest: str, column: int) -> str:
    """The message for a syntax error; ``rest`` is the file's text from the error on."""
    if not rest.strip():
        return "the file ends before a bracket, a quote or a value is complete"
    faults = (what for sign, what in _FAULTS.items() if rest.startswith(sign))
    return next(faults, f"check the quotes, brackets, colons and indentation before column {column}")


_FAULTS = {
    "\t": "a tab, where only spaces are allowed",
    "*": "an alias (*) without an anchor (&) above it; quote a text that begins with *",
    "!": "a tag (!), and tags are not supported; quote a text that begins with !",
    "---": "a second document begins here, and only one is allowed",
}


def _survey(node: yaml.Node, source: SettingsSource, keys: Keys = (), above: frozenset[int] = frozenset()) -> bool:
    """Record the line of every key, and report duplicate keys. False if a node contains itself."""
    if id(node) in above:
        source.mistakes.append(source.mistake(keys, "refers to itself"))
        return False
    above |= {id(node)}
    sound = True
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.lines[*keys, index] = item.start_mark.line + 1
            sound &= _survey(item, source, (*keys, index), above)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*keys, str(key.value))
            twice = source.lines.get(path)
            source.lines[path] = key.start_mark.line + 1
            if twice and key.tag != "tag:yaml.org,2002:merge":
                source.mistakes.append(source.mistake(path, f"duplicate key, first set in line {twice}"))
            sound &= _survey(value, source, path, above)
    return sound


def _mapping(values: Any, source: SettingsSource) -> Values:
    if isinstance(values, dict):
        return values
    source.mistakes.append(Mistake(source.where, "", "must be a mapping of settings, as in config.example.yaml"))
    return {}


def _filled(value: Any, source: SettingsSource, keys: Keys = ()) -> Any:
    """The value with variables replaced, and without keys that are not text, which are reported."""
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        source.mistakes += [
            source.mistake((*keys, str(key)), "the key must be text; put it in quotes") for key in wrong
        ]
        return {key: _filled(item, source, (*keys, key)) for key, item in value.items() if isinstance(key, str)}
    if isinstance(value, list):
        return [_filled(item, source, (*keys, index)) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        return _VARIABLE.sub(_variable, value)
    except LookupError as error:
        source.mistakes.append(source.mistake(keys, str(error.args[0])))
        return value


def _variable(match: re.Match[str]) -> str:
    if match[0] == "$${":
        return "${"
    named = _NAMED.fullmatch(match[1])
    if named is None or not match[2]:
        raise LookupError("a variable is written ${NAME} or ${NAME:-default}, and a plain ${ is written $${")
    value, default = os.environ.get(named[1]), named[2]
    if default is not None:
        return value or default
    if value is None:
        raise LookupError(f"the variable {named[1]} is not set; set it, or write ${{{named[1]}:-default}}")
    return value
