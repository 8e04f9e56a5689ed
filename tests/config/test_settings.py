"""Settings from every source, and every mistake with its position and without its value."""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from app.config.fields import KNOWN, PLACEHOLDER, Section
from app.config.loader import load, validate_start
from app.config.settings import Settings
from app.config.sources import NEAREST, QUOTED, ConfigError, Keys, dotted, explain
from app.gateway.build import secrets

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"
SECRET = "hunter2hunter2hunter2"
ENDS = "the file ends before a bracket, a quote or a value is complete"
LOOK = "check the quotes, brackets, colons and indentation before column"

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removes the machine's variables, secret files and configuration files."""
    for name in list(os.environ):
        if name.startswith("TORII_") or re.fullmatch(r"(JINA|AIHUBMIX)_API_KEY(_FILE)?", name):
            monkeypatch.delenv(name)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("TORII_SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "torii.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def mistakes(path: Path | None = None, **overrides: Any) -> list[str]:
    """The lines of the error, without the directory. Checks that they do not contain the secret."""
    with pytest.raises(ConfigError) as error:
        load(path, **{"sandbox": "on", **overrides})
    assert SECRET not in str(error.value)
    assert SECRET not in repr(error.value)
    assert error.value.__cause__ is None
    return [line.replace(f"{Path.cwd()}/", "") for line in str(error.value).splitlines()]


def short(lines: list[str]) -> list[str]:
    """The lines with lists of settings shortened: only the nearest settings are named, and their count must add up."""
    more = len(Settings.model_fields) - NEAREST
    cut = re.compile(rf"Allowed: (\w+)(, \w+){{{NEAREST - 1}}} and {more} more, see docs/configuration\.md$")
    return [cut.sub(r"Allowed: \1, ...", line) for line in lines]


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize(("variable", "name"), [("JINA_API_KEY", "jina"), ("AIHUBMIX_API_KEY", "aihubmix")])
def test_one_key_in_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch, variable: str, name: str) -> None:
    monkeypatch.setenv(variable, f"{SECRET}\n")
    settings = load()
    key = settings.upstreams[name].api_key
    assert key is not None
    assert key.get_secret_value() == SECRET
    assert settings.active == (name,)
    assert (settings.host, settings.port, settings.open, settings.loopback) == ("127.0.0.1", 8000, True, True)
    assert settings.unknown_upstream == ("aihubmix" if name == "aihubmix" else None)


def test_no_key_at_all_names_the_ways_out() -> None:
    assert mistakes(sandbox="off") == [
        "No upstream has a key. Set JINA_API_KEY or AIHUBMIX_API_KEY or both, or try Torii without any key: "
        "torii serve --sandbox"
    ]
    assert load(serving=False).active == ()


def test_the_example_is_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_API_KEY", SECRET)
    assert load(EXAMPLE) == load()


def blocks() -> list[list[int]]:
    """The line numbers of config.example.yaml that are commented-out settings: blocks, and each complete entry in a
    block.

    Prose has one space after its #, settings have more.
    """
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    found: list[list[int]] = []
    for number, line in enumerate(lines):
        if re.match("#  +", line):
            above = found[-1] if found and found[-1][-1] == number - 1 else []
            found += [] if above else [above]
            above.append(number)
    entries = []
    for block in found:
        least = min(len(lines[number]) - len(lines[number][1:].lstrip()) for number in block)
        for number in block:
            if len(lines[number]) - len(lines[number][1:].lstrip()) == least:
                entries.append([number])
            else:
                entries[-1].append(number)
    whole = [entry for entry in entries if not lines[entry[0]][1:].lstrip().startswith("#")]
    return found + [entry for entry in whole if entry not in found]


def uncommented(numbers: list[int]) -> str:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    return "\n".join(line[1:] if number in numbers else line for number, line in enumerate(lines))


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block[0] + 1}-{block[-1] + 1}")
def test_each_block_that_is_commented_out_can_be_used_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block: list[int]
) -> None:
    path = tmp_path / "torii.yaml"
    path.write_text(text := uncommented(block), encoding="utf-8")
    for variable in re.findall(r"\$\{(\w+)\}", "\n".join(text.splitlines()[number] for number in block)):
        monkeypatch.setenv(variable, "0123456789abcdef")
    assert load(path, sandbox="on") != load(EXAMPLE, sandbox="on")


def test_the_examples_that_are_commented_out_are_right(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.setenv("SEARCH_TEAM_KEY", "0123456789abcdef")
    settings = load(write(uncommented([number for block in blocks() for number in block])), sandbox="on")
    assert [caller.name for caller in settings.callers] == ["notebook", "search-team"]
    assert list(settings.upstreams) == ["jina", "aihubmix", "local"]
    assert set(settings.models) == {
        "text-embedding-3-small",
        "cheap-rerank",
        "jina-embeddings-v2-base-es",
        "jina-embeddings-v3",
        "my-embeddings",
    }


def sections(model: type[Any]) -> dict[str, Any]:
    return {name: field.annotation for name, field in model.model_fields.items()}


def test_every_setting_is_in_the_example_and_in_the_documentation() -> None:
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    documentation = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert set(example) == set(Settings.model_fields)
    for name, kind in sections(Settings).items():
        inner = sections(kind) if isinstance(kind, type) and issubclass(kind, Section) else {}
        assert not inner or set(example[name]) == set(inner), name
        for key in [f"{name}.{key}" for key in inner] or [name]:
            assert f"`{key}`" in documentation, key


def test_every_key_of_the_lists_is_in_the_example_and_in_the_documentation() -> None:
    example = EXAMPLE.read_text(encoding="utf-8")
    documentation = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for section in Section.__subclasses__():
        for key in section.model_fields:
            assert key in ("alias_of", "targets") or f"{key}:" in example, key
            assert f"{key}`" in documentation or f"`{key}" in documentation or f"{key}}}`" in documentation, key


def test_what_is_said_of_callers_who_leave(write: Write) -> None:
    text = """
        disconnect: {{policy: {policy}, seconds: 5}}
        callers: [{{name: a, key: 0123456789abcdef, on_disconnect: {policy}}}]
        models: {{jina-embeddings-v3: {{on_disconnect: {policy}}}}}
    """
    settings = load(write(text.format(policy="drain")), sandbox="on")
    model = settings.models["jina-embeddings-v3"]
    assert model is not None
    assert [settings.disconnect.policy, settings.callers[0].on_disconnect, model.on_disconnect] == ["drain"] * 3
    assert mistakes(write(text.format(policy="wait"))) == [
        f"torii.yaml:{line}: {key}: must be 'cancel', 'drain' or 'detach'"
        for line, key in (
            (2, "disconnect.policy"),
            (3, "callers[0].on_disconnect"),
            (4, "models.jina-embeddings-v3.on_disconnect"),
        )
    ]


def test_the_file_is_the_given_one_or_the_named_one_or_the_one_here(
    monkeypatch: pytest.MonkeyPatch, write: Write, tmp_path: Path
) -> None:
    assert load(sandbox="on").port == 8000
    (tmp_path / "config.yaml").write_text("port: 8001")
    assert load(sandbox="on").port == 8001
    monkeypatch.setenv("TORII_CONFIG", str(write("port: 8002")))
    assert load(sandbox="on").port == 8002
    assert load(tmp_path / "config.yaml", sandbox="on").port == 8001


def test_the_stronger_source_wins(monkeypatch: pytest.MonkeyPatch, write: Write, tmp_path: Path) -> None:
    path = write("{port: 8001, upstreams: {jina: {api_key: from-the-file}}}")

    def key() -> str:
        found = load(path).upstreams["jina"].api_key
        return found.get_secret_value() if found else ""

    assert key() == "from-the-file"
    (tmp_path / "secrets/jina_api_key").write_text("from-a-secret-file\n")
    assert key() == "from-a-secret-file"
    (tmp_path / "named").write_text("from-a-named-file\n")
    monkeypatch.setenv("JINA_API_KEY_FILE", str(tmp_path / "named"))
    assert key() == "from-a-named-file"
    monkeypatch.setenv("JINA_API_KEY", "from-the-environment")
    assert key() == "from-the-environment"
    monkeypatch.setenv("TORII_UPSTREAMS__JINA__API_KEY", "from-our-variable")
    assert key() == "from-our-variable"
    monkeypatch.setenv("TORII_PORT", "8002")
    assert load(path).port == 8002
    assert load(path, port=8003, host=None).port == 8003


def test_a_byte_order_mark_before_a_file_is_skipped(
    monkeypatch: pytest.MonkeyPatch, write: Write, tmp_path: Path
) -> None:
    """Windows editors write a byte order mark. UTF-16 is refused."""
    path = tmp_path / "marked.yaml"
    path.write_bytes("port: 8005".encode("utf-8-sig"))
    for name in ("jina_api_key", "torii_operator_key"):
        (tmp_path / "secrets" / name).write_bytes(f"{SECRET}\r\n".encode("utf-8-sig"))
    (tmp_path / "named").write_bytes(f"{SECRET}-caller\n".encode("utf-8-sig"))
    monkeypatch.setenv("TORII_CALLER_KEY_FILE", str(tmp_path / "named"))
    settings = load(path)
    assert settings.port == 8005
    keys = (settings.upstreams["jina"].api_key, settings.operator_key, settings.caller_key)
    assert [key.get_secret_value() for key in keys if key] == [SECRET, SECRET, f"{SECRET}-caller"]
    (tmp_path / "secrets/jina_api_key").write_bytes(SECRET.encode("utf-16"))
    with pytest.raises(ConfigError, match="jina_api_key: cannot be read: the file is not UTF-8 text"):
        load(path)


def test_secret_files_alone_are_enough(tmp_path: Path) -> None:
    (tmp_path / "secrets/aihubmix_api_key").write_text(f"{SECRET}\n")
    (tmp_path / "secrets/jina_api_key").write_text("\n")
    (tmp_path / "secrets/torii_caller_key").write_text(f"{SECRET}\n")
    settings = load(host="0.0.0.0")
    assert settings.active == ("aihubmix",)
    assert settings.caller_key is not None


def test_no_secret_files_where_there_is_no_directory_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORII_SECRETS_DIR")
    monkeypatch.setattr("app.config.sources.SECRETS_DIRECTORY", tmp_path / "none")
    assert load(sandbox="on").keyed == ()


def test_empty_variables_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("TORII_PORT", "TORII_CALLER_KEY", "TORII_TIMEOUTS__IDLE_SECONDS", "TORII_MAX_CALLS", "TORII_PROT")
    for name in ("JINA_API_KEY", "AIHUBMIX_API_KEY", "TORII_CONFIG", *settings):
        monkeypatch.setenv(name, "")
    assert load(sandbox="on") == Settings(sandbox="on")


def test_the_environment_reaches_every_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORII_TIMEOUTS__IDLE_SECONDS", "600.5")
    monkeypatch.setenv("TORII_UPSTREAMS__MIRROR__KIND", "openai")
    monkeypatch.setenv("TORII_UPSTREAMS__MIRROR__BASE_URL", "https://mirror.example/v1/")
    monkeypatch.setenv("TORII_UPSTREAMS__MIRROR__API_KEY", "12345678901234567890")
    monkeypatch.setenv("TORII_MODELS", '{"small": "jina-embeddings-v3", "jina-clip-v1": null}')
    monkeypatch.setenv("TORII_UNKNOWN_MODELS_UPSTREAM", "none")
    settings = load()
    assert settings.timeouts.idle_seconds == 600.5
    assert settings.active == ("mirror",)
    assert settings.upstreams["mirror"].base_url == "https://mirror.example/v1"
    assert list(settings.models) == ["small", "jina-clip-v1"]
    assert settings.models["jina-clip-v1"] is None
    assert settings.unknown_upstream is None


def test_the_order_of_the_upstreams_is_that_of_the_file(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.setenv("JINA_API_KEY", "j")
    monkeypatch.setenv("AIHUBMIX_API_KEY", "a")
    monkeypatch.setenv("TORII_UPSTREAMS__AIHUBMIX__BASE_URL", "https://mirror.example/v1")
    assert list(load().upstreams) == ["jina", "aihubmix"]
    path = write("upstreams: {mine: {kind: openai, base_url: 'http://h/v1', api_key: k}, aihubmix: {}}")
    assert list(load(path).upstreams) == ["mine", "aihubmix", "jina"]


def test_where_a_key_comes_from_does_not_change_the_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secrets/aihubmix_api_key").write_text("a")
    monkeypatch.setenv("JINA_API_KEY", "j")
    assert load().active == ("jina", "aihubmix")


def test_what_kubernetes_sets_for_a_service_named_torii_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TORII_PORT": "tcp://10.0.0.1:8000",
        "TORII_SERVICE_HOST": "10.0.0.1",
        "TORII_SERVICE_PORT": "8000",
        "TORII_SERVICE_PORT_HTTP": "8000",
        "TORII_PORT_8000_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert load(sandbox="on").port == 8000


def test_variables_in_values(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("TRICK", "${PORT}: {a: b}")
    settings = load(
        write("""
            port: ${PORT}
            ping_seconds: ${EMPTY:-20}
            max_body_megabytes: ${UNSET:-16}
            upstreams:
              jina: {base_url: "https://${HOST_:-mirror}.example:${PORT}/v1", api_key: "${EMPTY}"}
            models: {"plain-$${X}": jina-embeddings-v3, tricky: {targets: [jina], inputs: ["${TRICK}", "$${X}", $]}}
            """),
        sandbox="on",
    )
    assert (settings.port, settings.ping_seconds, settings.max_body_megabytes) == (9000, 20, 16)
    assert settings.upstreams["jina"].base_url == "https://mirror.example:9000/v1"
    assert settings.upstreams["jina"].api_key is None
    tricky = settings.models["tricky"]
    assert tricky is not None
    assert tricky.inputs == ["${PORT}: {a: b}", "${X}", "$"]


@pytest.mark.parametrize(
    ("written", "expected"), [("on", "on"), ("off", "off"), ("true", "on"), ("AUTO", "auto"), ('"on"', "on")]
)
def test_a_bare_on_or_off_means_what_it_says(write: Write, written: str, expected: str) -> None:
    assert load(write(f"docs: {written}"), sandbox="on").docs == expected


# ---------------------------------------------------------------------------- derived values


def test_the_sandbox_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(sandbox="auto").sandboxed
    assert load(sandbox="auto").active == ("jina", "aihubmix")
    monkeypatch.setenv("JINA_API_KEY", SECRET)
    assert not load(sandbox="auto").sandboxed
    assert load(sandbox="on").active == ("jina", "aihubmix")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("torii.internal", False),
    ],
)
def test_loopback_is_this_machine_only(host: str, loopback: bool) -> None:
    settings = Settings(host=host)
    assert settings.loopback is loopback
    assert settings.docs_open is loopback
    assert Settings(host=host, docs="on").docs_open
    assert not Settings(host=host, docs="off").docs_open


# ---------------------------------------------------------------- mistakes


def test_a_gateway_open_to_others_does_not_start(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    said = (
        "other machines can reach this address and, without callers, could spend your upstream keys. "
        "Set TORII_CALLER_KEY or callers, or TORII_OPERATOR_KEY to create keys while the gateway runs (with a ledger), "
        "or generate_caller_key: true for a random key, or host: 127.0.0.1"
    )
    assert mistakes(host="0.0.0.0") == [f"command line: host: {said}"]
    assert mistakes(write("\nhost: 0.0.0.0")) == [f"torii.yaml:2: host: {said}"]
    monkeypatch.setenv("TORII_HOST", "0.0.0.0")
    assert mistakes() == [f"environment: TORII_HOST: {said}"]
    assert load(sandbox="on", serving=False).host == "0.0.0.0"
    assert load(sandbox="on", generate_caller_key=True).open
    monkeypatch.setenv("TORII_CALLER_KEY", SECRET)
    assert not load(sandbox="on").open


def test_the_start_can_be_checked_by_itself() -> None:
    with pytest.raises(ConfigError) as error:
        validate_start(Settings(host="0.0.0.0"))
    assert [mistake.keys for mistake in error.value.mistakes] == [("host",), ()]
    validate_start(Settings(sandbox="on"))


BROKEN = f"""\
prot: 1
port: abc
ping_seconds: off
host: ""
docs: maybe
timeouts:
  conect_seconds: 3
  idle_seconds: 0
callers:
  - name: a
    key: short
  - nam: b
    key: 1234567890123456789
  - name: c
  - {{name: d, sha256: {SECRET}}}
upstreams:
  jina: {{base_url: "ftp://{SECRET}", api_key: "{SECRET} {SECRET}"}}
  foo: {{base_url: "https://user:{SECRET}@host/v1", api_kee: {SECRET}}}
  bar: {SECRET}
  Bad Name: {{kind: openai}}
  aihubmix: {{deepsearch_base_url: "https://aihubmix.com/v1", base_url: https://aihubmix.com/v1/embeddings}}
models:
  mine: {{targets: [jina], contxt: 3, endpoints: [embedings]}}
  both: {{alias_of: a, dimensions: 3}}
  list: [{SECRET}]
"""
FIELDS = (
    "api_key, api_keys, tier, svip_base_url, base_url, proxy_url, search_base_url, reader_base_url, kind, limits, "
    "deepsearch_base_url"
)


def test_every_mistake_of_a_file_in_one_go(write: Write) -> None:
    assert short(mistakes(write(BROKEN))) == [
        "torii.yaml:1: prot: unknown key; did you mean port? Allowed: port, ...",
        "torii.yaml:2: port: must be a whole number",
        "torii.yaml:3: ping_seconds: must be a number, not true or false (YAML reads on, off, yes and no as true or "
        "false)",
        "torii.yaml:4: host: must be an address or a host name, such as 127.0.0.1 or 0.0.0.0",
        "torii.yaml:5: docs: must be 'off', 'on' or 'auto'",
        "torii.yaml:7: timeouts.conect_seconds: unknown key; did you mean connect_seconds? Allowed: connect_seconds, "
        "event_seconds, search_seconds, idle_seconds, write_seconds, total_seconds, reply_seconds, reader_seconds, "
        "headers_seconds, request_head_seconds, request_body_seconds",
        "torii.yaml:8: timeouts.idle_seconds: must be more than 0",
        "torii.yaml:11: callers[0].key: must have at least 16 characters; generate one with `openssl rand -hex 24`",
        "torii.yaml:12: callers[1].name: is missing",
        "torii.yaml:12: callers[1].nam: unknown key; did you mean name? Allowed: name, sha256, limits, on_disconnect, "
        "key, budgets",
        "torii.yaml:13: callers[1].key: must be text; put it in quotes",
        "torii.yaml:14: callers[2]: must have either a key or a sha256",
        "torii.yaml:15: callers[3]: sha256 must be 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them",
        "torii.yaml:17: upstreams.jina.base_url: must be a URL such as https://host.example/v1",
        "torii.yaml:17: upstreams.jina.api_key: must be printable ASCII without spaces, because it is sent in an HTTP "
        "header",
        "torii.yaml:18: upstreams.foo.kind: is missing; one of jina, aihubmix, openai",
        "torii.yaml:18: upstreams.foo.base_url: must be a plain URL: no user, password, query or fragment; "
        "a key belongs in api_key",
        f"torii.yaml:18: upstreams.foo.api_kee: unknown key; did you mean api_key? Allowed: {FIELDS}",
        "torii.yaml:19: upstreams.bar: must be a mapping of keys",
        "torii.yaml:20: upstreams.Bad Name: a name has 1 to 32 characters of a-z, 0-9, - and _; auto, none and jina-ai "
        "are reserved",
        "torii.yaml:20: upstreams.Bad Name.base_url: is missing",
        "torii.yaml:21: upstreams.aihubmix.base_url: must end before /embeddings, such as https://host.example/v1",
        "torii.yaml:23: models.mine.endpoints[0]: must be 'embeddings', 'rerank', 'chat', 'reader', 'search', "
        "'svip', 'classify', 'train' or 'segment'",
        "torii.yaml:23: models.mine.contxt: unknown key; did you mean context? Allowed: context, "
        "on_disconnect, endpoints, inputs, targets, max_inputs, dimensions, tasks, dimensions_allowed, cached, "
        "features, alias_of, deepsearch",
        "torii.yaml:24: models.both: an alias takes no other keys than alias_of",
        "torii.yaml:25: models.list: must be a mapping of keys",
    ]


CONTRADICTIONS = f"""\
callers:
  - {{name: a, key: {SECRET}}}
  - {{name: a, key: 0123456789abcdef}}
  - {{name: default, key: {SECRET}}}
caller_key: fedcba9876543210
unknown_models_upstream: aihubmx
models:
  loop: loop
  one: two
  two: one
  gone: null
  stray: gone
  typo: jina-embedings-v3
  mine: {{dimensions: 3}}
  twice: {{targets: [jina, jina]}}
  far: {{targets: [jinna]}}
  mixed: {{targets: [{{upstream: jina, model: jina-embeddings-v3}}, aihubmix/jina-embeddings-v4]}}
"""


def test_what_does_not_go_together(write: Write) -> None:
    assert mistakes(write(CONTRADICTIONS)) == [
        "torii.yaml:2: callers[0].name: duplicate name; each caller needs a name of its own",
        "torii.yaml:3: callers[1].name: duplicate name; each caller needs a name of its own",
        "torii.yaml:4: callers[2]: duplicate key; each caller needs a key of its own",
        "torii.yaml:5: caller_key: belongs to the caller named default, and callers also has a caller of that name",
        "torii.yaml:6: unknown_models_upstream: unknown upstream; did you mean aihubmix? Known: jina, aihubmix",
        "torii.yaml:8: models.loop: is an alias of itself: loop -> loop",
        "torii.yaml:9: models.one: is an alias of itself: one -> two -> one",
        "torii.yaml:10: models.two: is an alias of itself: two -> one -> two",
        "torii.yaml:12: models.stray: is an alias of an unknown model; nearest: one",
        "torii.yaml:13: models.typo: is an alias of an unknown model; nearest: "
        "jina-embeddings-v3, jina-embeddings-v4, jina-embeddings-v2-base-zh",
        "torii.yaml:14: models.mine: needs targets, because the model is unknown; one or more of jina, aihubmix",
        "torii.yaml:15: models.twice.targets[1]: duplicate target",
        "torii.yaml:16: models.far.targets[0]: unknown upstream; did you mean jina? Known: jina, aihubmix",
        "torii.yaml:17: models.mixed.targets: name different models, jina-embeddings-v3 and jina-embeddings-v4: their "
        "vectors and scores are not comparable, so one cannot replace another",
    ]


@pytest.mark.parametrize(
    "url", ["https://[half/v1", "https://host:port/v1", "https:///v1", "host/v1", "https://a b/v1"]
)
def test_a_url_that_is_none(write: Write, url: str) -> None:
    assert mistakes(write(f"upstreams: {{jina: {{base_url: '{url}'}}}}")) == [
        "torii.yaml:1: upstreams.jina.base_url: must be a URL such as https://host.example/v1"
    ]


def test_deepsearch_has_its_own_address_at_jina_only(write: Write) -> None:
    assert mistakes(write("upstreams: {aihubmix: {deepsearch_base_url: 'https://host.example/v1'}}")) == [
        "torii.yaml:1: upstreams.aihubmix: deepsearch_base_url is for an upstream of kind jina only"
    ]


def test_an_alias_for_an_unlisted_model_needs_an_upstream_for_it(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    path = write("models: {fast: gpt-4o-mini, direct: aihubmix/gpt-4o-mini, same: {targets: [aihubmix/gpt-4o]}}")
    monkeypatch.setenv("JINA_API_KEY", SECRET)
    assert [line.partition(";")[0] for line in mistakes(path, sandbox="off")] == [
        "torii.yaml:1: models.fast: is an alias of an unknown model"
    ]
    monkeypatch.setenv("AIHUBMIX_API_KEY", SECRET)
    assert load(path).unknown_upstream == "aihubmix"


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("{store: off}", None),
        ("{store: sqlite, path: here.db, megabytes: 5, ttl_days: 0.5}", None),
        ("{store: redis, redis_url: 'rediss://:word@host.example:6379/1'}", None),
        (
            "{store: redis}",
            "cache.redis_url: is required if cache.store is redis, such as redis://127.0.0.1:6379/0",
        ),
        (
            f"{{store: redis, redis_url: 'http://{SECRET}@host.example'}}",
            "cache.redis_url: must be a URL such as redis://host.example:6379/0 or "
            "rediss://:password@host.example:6379/0",
        ),
        (
            "{store: sqlite, path: no-folder/here.db}",
            "cache.path: the folder is missing or not writable; create the folder, or set another file",
        ),
        ("{store: disk}", "cache.store: must be 'off', 'memory', 'sqlite' or 'redis'"),
        ("{ttl_days: 0}", "cache.ttl_days: must be more than 0"),
    ],
)
def test_the_cache(write: Write, cache: str, expected: str | None) -> None:
    path = write(f"sandbox: on\ncache: {cache}")
    if expected is None:
        load(path)
    else:
        assert mistakes(path) == [f"torii.yaml:2: {expected}"]


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ("{url: 'redis://host.example'}", None),
        ("{url: 'rediss://ann:word@host.example:6379/1', prefix: mine.2}", None),
        ("{url: 'redis+sentinel://:word@one.example:26379,two.example/torii/0'}", None),
        ("{url: 'rediss+sentinel://[2001:db8::1]:26379/torii?sentinel_password=word'}", None),
        *(
            (
                f"{{url: '{url}'}}",
                "counters.url: must be a URL such as redis://host.example:6379/0 or "
                "rediss://:password@host.example:6379/0",
            )
            for url in (f"{SECRET}", f"http://{SECRET}@host", f"redis://:{SECRET}@host/name", "redis://host:99999/0")
        ),
        *(
            (
                f"{{url: 'redis+sentinel://{rest}'}}",
                "counters.url: must be a URL such as "
                "redis+sentinel://:password@host-1.example:26379,host-2.example:26379/SERVICE/0",
            )
            for rest in (f":{SECRET}@host", f":{SECRET}@/torii", "host,,other/torii", f"host/torii/0?x={SECRET}")
        ),
        (
            f"{{prefix: '{SECRET}*'}}",
            "counters.prefix: must have 1 to 64 letters, digits, dots, hyphens and underscores, such as torii",
        ),
    ],
)
def test_the_counters(write: Write, counters: str, expected: str | None) -> None:
    path = write(f"sandbox: on\ncounters: {counters}")
    if expected is None:
        load(path)
    else:
        assert mistakes(path) == [f"torii.yaml:2: {expected}"]


def test_the_cache_may_use_the_redis_of_the_counters(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORII_COUNTERS__URL", "redis://:word@host.example")
    settings = load(write("sandbox: on\ncache: {store: redis}"))
    assert settings.redis_of_cache == settings.counters.url
    assert {"redis://:word@host.example", "word"} <= set(secrets(settings))
    assert "word" not in repr(settings)


def test_redis_needs_its_package(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)  # Python's own mark for a package that cannot be imported
    needs = "needs a package that is not installed: in the checkout, pip install '.[redis]'"
    [mistake] = mistakes(write("sandbox: on\ncache: {store: redis, redis_url: 'redis://host'}"))
    assert mistake.endswith(f"cache.store: redis {needs}")
    [mistake] = mistakes(write("sandbox: on\ncounters: {url: 'redis://host'}"))
    assert mistake.endswith(f"counters.url: {needs}")


def test_a_model_may_have_other_names_at_other_upstreams(write: Write) -> None:
    load(write("models: {mine: {targets: [jina/jina-embeddings-v3, aihubmix/embeddings-three]}}"), sandbox="on")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port: [1", f"torii.yaml:1: is not YAML: {ENDS}"),
        (f'a: "{SECRET}\nb: 1', f"torii.yaml:2: is not YAML: {ENDS}"),
        (
            f"caller_key: *{SECRET}",
            "torii.yaml:1: is not YAML: an alias (*) without an anchor (&) above it; quote a text that begins with *",
        ),
        (
            f"caller_key: !{SECRET} x",
            "torii.yaml:1: is not YAML: a tag (!), and tags are not supported; quote a text that begins with !",
        ),
        ("a: 1\n\tb: 2", "torii.yaml:2: is not YAML: a tab, where only spaces are allowed"),
        ("port: 1\n---\nport: 2", "torii.yaml:2: is not YAML: a second document begins here, and only one is allowed"),
        ("port: 1\nhost: \0", "torii.yaml:2: is not YAML: a character that YAML does not allow"),
        (f"port: 1\nhost: {SECRET}: {SECRET}", f"torii.yaml:2: is not YAML: {LOOK} 28"),
        (f"? [{SECRET}]\n: 1", f"torii.yaml:1: is not YAML: {LOOK} 3"),
        ("models: " + "[" * 5000, "torii.yaml: nested too deep"),
        ("- port", "torii.yaml: must be a mapping of settings, as in config.example.yaml"),
        (SECRET, "torii.yaml: must be a mapping of settings, as in config.example.yaml"),
        ("log_level: 2024-13-45", "torii.yaml: contains an invalid number or date; put it in quotes"),
        ("models: &m {a: *m}", "torii.yaml:1: models.a: refers to itself"),
        ("port: 1\n\nport: 2", "torii.yaml:3: port: duplicate key, first set in line 1"),
        ("models: {1: jina-clip-v1}", "torii.yaml:1: models.1: the key must be text; put it in quotes"),
        (
            "caller_key: ${NOPE}",
            "torii.yaml:1: caller_key: the variable NOPE is not set; set it, or write ${NOPE:-default}",
        ),
        (
            "port: ${NO PE}",
            "torii.yaml:1: port: a variable is written ${NAME} or ${NAME:-default}, and a plain ${ is written $${",
        ),
        (
            "port: ${PORT",
            "torii.yaml:1: port: a variable is written ${NAME} or ${NAME:-default}, and a plain ${ is written $${",
        ),
        (
            "_env_file: x",
            "torii.yaml:1: _env_file: unknown key; did you mean ca_file? Allowed: ca_file, ...",
        ),
    ],
)
def test_a_file_that_cannot_be_read_as_settings(write: Write, text: str, expected: str) -> None:
    assert short(mistakes(write(text))) == [expected]


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none.yaml") == ["none.yaml: cannot be read: No such file or directory"]
    assert mistakes(tmp_path / "secrets") == ["secrets: cannot be read: Is a directory"]
    (tmp_path / "latin.yaml").write_bytes(b"host: \xe4")
    assert mistakes(tmp_path / "latin.yaml") == ["latin.yaml: is not UTF-8 text, at byte 6"]


def test_the_cache_is_never_in_the_file_of_the_ledger(write: Write, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "torii.db")
    for ledger, cache in (("torii.db", "torii.db"), ("./torii.db", "link.db")):
        path = write(f"{{ledger: {{path: {tmp_path}/{ledger}}}, cache: {{store: sqlite, path: {tmp_path}/{cache}}}}}")
        with pytest.raises(ConfigError, match=r"cache\.path: is the file of the ledger; set another file"):
            load(path, sandbox="on")


def test_an_empty_file_is_the_defaults(write: Write) -> None:
    assert load(write("# nothing\n"), sandbox="on") == Settings(sandbox="on")


def test_mistakes_in_the_environment_name_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "TORII_PORT": "99999",
        "TORII_PROT": "1",
        "TORII_TIMEOUTS__IDLE": "1",
        "TORII_CALLER_KEY": "short",
        "TORII_UPSTREAMS__MINE__BASE_URL": f"https://{SECRET}@mine.example",
        "AIHUBMIX_API_KEY_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "secrets/jina_api_key").write_bytes(b"\xff")
    assert short(mistakes()) == [
        "environment: TORII_PROT: unknown setting; did you mean port? Allowed: port, ...",
        "environment: AIHUBMIX_API_KEY_FILE: none cannot be read: No such file or directory",
        "secret file: secrets/jina_api_key: cannot be read: the file is not UTF-8 text",
        "environment: TORII_PORT: must be at most 65535",
        "environment: TORII_CALLER_KEY: must have at least 16 characters; generate one with `openssl rand -hex 24`",
        "environment: TORII_UPSTREAMS__MINE__KIND: is missing; one of jina, aihubmix, openai",
        "environment: TORII_UPSTREAMS__MINE__BASE_URL: must be a plain URL: no user, password, query or fragment; "
        "a key belongs in api_key",
        "environment: TORII_TIMEOUTS__IDLE: unknown key; did you mean idle_seconds? Allowed: idle_seconds, "
        "write_seconds, total_seconds, reply_seconds, event_seconds, search_seconds, reader_seconds, headers_seconds, "
        "connect_seconds, "
        "request_head_seconds, request_body_seconds",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("pace_seconds",), ("queue_timeout_seconds",)),
        (("max_calls",), ("max_concurrent_calls",)),
        (("sandbox_pace",), ("sandbox_time_scale",)),
        (("timeouts", "head_seconds"), ("timeouts", "request_head_seconds")),
        (("timeouts", "body_seconds"), ("timeouts", "request_body_seconds")),
    ],
    ids=lambda keys: dotted(keys),
)
def test_a_former_name_is_answered_with_the_present_one(
    monkeypatch: pytest.MonkeyPatch, write: Write, old: Keys, new: Keys
) -> None:
    *above, last = old
    path = write("port: 8000\n" + "".join(f"{key}:\n  " for key in above) + f"{last}: 7\n")
    assert mistakes(path) == [f"torii.yaml:{2 + len(above)}: {dotted(old)}: was renamed; use {dotted(new)} instead"]
    variable, present = ("TORII_" + "__".join(map(str, keys)).upper() for keys in (old, new))
    monkeypatch.setenv(variable, "7")
    assert mistakes() == [f"environment: {variable}: was renamed; use {present} instead"]
    monkeypatch.delenv(variable)
    monkeypatch.setenv(present, "7")
    value: Any = load(sandbox="on")
    for key in new:
        value = getattr(value, str(key))
    assert value == 7


def paths(model: type[BaseModel], above: Keys = ()) -> Iterator[Keys]:
    """The paths of all settings and sections."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        kinds = [field.annotation, *get_args(field.annotation)]
        kinds += [part for kind in kinds for part in get_args(kind)]
        for section in {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)}:
            ways: dict[Any, Keys] = {list: (0,), dict: ("x",)}
            within = ways.get(get_origin(field.annotation), ())
            yield (*above, name, *within)
            yield from paths(section, (*above, name, *within))


WRONG = (None, True, -1, 2.5, 10**30, math.nan, math.inf, "", "x", "x" * 5000, "9" * 5000, b"x", date(2026, 1, 1))
NESTED: tuple[Any, ...] = ([], ["x"], [None], [[]], [{}], {}, {"x": None}, {"x": []}, {"x": {}}, {"": 1}, {1: 2})


@pytest.mark.parametrize("keys", list(paths(Settings)), ids=dotted)
def test_no_mistake_is_told_in_the_words_of_a_library(keys: Keys) -> None:
    for wrong in (*WRONG, *NESTED):
        value: Any = wrong
        for key in reversed(keys):
            value = [value] if isinstance(key, int) else {key: value}
        try:
            Settings(**value)
        except ValidationError as error:
            told = [what for _, what in explain(error, Settings)]
            theirs = [found["msg"] for found in error.errors()]
            ours = [what for what in told if what != "cannot be used" and not any(text in what for text in theirs)]
            assert ours == told, (keys, wrong)


def test_a_secrets_directory_that_is_none_and_json_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORII_SECRETS_DIR", "nowhere")
    monkeypatch.setenv("TORII_CALLERS", f"[{SECRET}")
    monkeypatch.setenv("TORII_CACHE", "{")
    monkeypatch.setenv("TORII_WORKERS", "few")
    assert mistakes() == [
        "environment: TORII_CALLERS: must be JSON",
        "environment: TORII_CACHE: must be JSON",
        "environment: TORII_SECRETS_DIR: nowhere is not a directory",
        "environment: TORII_WORKERS: must be a whole number",
    ]


def test_mistakes_on_the_command_line() -> None:
    assert short(mistakes(port=-1, zzz="red")) == [
        "command line: zzz: unknown key; Allowed: time_zone, ...",
        "command line: port: must be at least 0",
    ]


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_that_were_kept_around_a_value_are_a_mistake(
    monkeypatch: pytest.MonkeyPatch, write: Write, tmp_path: Path, quote: str
) -> None:
    for name in ("JINA_API_KEY", "TORII_CALLER_KEY", "TORII_PORT", "TORII_TIMEOUTS__IDLE_SECONDS", "TORII_CACHE"):
        monkeypatch.setenv(name, f"{quote}{SECRET}{quote}")
    (tmp_path / "secrets/torii_operator_key").write_text(f"{quote}{SECRET}{quote}\n")
    (tmp_path / "secrets/aihubmix_api_key").write_text(f"{quote}x{quote}\n")
    other = "'" if quote == '"' else '"'
    path = write(f"callers: [{{name: a, key: {other}{quote}{SECRET}{quote}{other}}}]")
    assert sorted(mistakes(path, sandbox="off")) == [
        f"environment: JINA_API_KEY: {QUOTED}",
        f"environment: TORII_CACHE: {QUOTED}",
        f"environment: TORII_CALLER_KEY: {QUOTED}",
        f"environment: TORII_PORT: {QUOTED}",
        f"environment: TORII_TIMEOUTS__IDLE_SECONDS: {QUOTED}",
        f"secret file: secrets/aihubmix_api_key: {QUOTED}",
        f"secret file: secrets/torii_operator_key: {QUOTED}",
        f"torii.yaml:1: callers[0].key: {QUOTED}",
    ]
    assert "remove the quotes" in QUOTED


def test_the_examples_key_opens_nothing(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    assert f"\nTORII_CALLER_KEY={PLACEHOLDER}\n" in (ROOT / ".env.example").read_text()
    monkeypatch.setenv("TORII_CALLER_KEY", PLACEHOLDER)
    digest = hashlib.sha256(PLACEHOLDER.encode()).hexdigest()
    assert mistakes(write(f"operator_key: {PLACEHOLDER}\ncallers: [{{name: a, sha256: {digest}}}]")) == [
        f"environment: TORII_CALLER_KEY: {KNOWN}",
        f"torii.yaml:1: operator_key: {KNOWN}",
        f"torii.yaml:2: callers[0]: sha256 {KNOWN}",
    ]


def test_a_mistake_is_told_before_what_is_missing(write: Write) -> None:
    first, second = mistakes(write("timeouts: {idle_seconds: soon}"), sandbox="off")
    assert first == "torii.yaml:1: timeouts.idle_seconds: must be a number"
    assert second.startswith("No upstream has a key.")


def test_keys_under_a_misspelt_name_are_not_missed_besides(write: Write) -> None:
    (only,) = mistakes(write(f"upstream: {{jina: {{api_key: {SECRET}}}}}"), sandbox="off")
    assert only.startswith("torii.yaml:1: upstream: unknown key; did you mean upstreams? Allowed: upstreams, ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"upstreams:\n  jina: {SECRET}", "2: upstreams.jina: must be a mapping of keys"),
        ("upstreams: [jina]", "1: upstreams: must be a mapping of names"),
        ("cache: off", "1: cache: must be a mapping of keys"),
    ],
)
def test_what_is_no_section_is_told_also_below_a_variable_for_a_part_of_it(
    monkeypatch: pytest.MonkeyPatch, write: Write, text: str, said: str
) -> None:
    monkeypatch.setenv("TORII_CACHE__TTL_DAYS", "1")
    monkeypatch.setenv("JINA_API_KEY", SECRET)
    assert mistakes(write(text)) == [f"torii.yaml:{said}"]


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:80", "::1:x", ":", "[::1]", "http://localhost"])
def test_a_host_is_written_without_its_port(write: Write, host: str) -> None:
    assert mistakes(write(f"host: '{host}'")) == [
        "torii.yaml:1: host: must be an address or a host name, such as 127.0.0.1 or 0.0.0.0"
    ]


EMPTY = """
callers:
models:
upstreams:
  jina:
timeouts:
#  idle_seconds: 5
cache:
"""


def test_a_section_with_nothing_in_it_says_nothing(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.setenv("JINA_API_KEY", SECRET)
    assert load(write(EMPTY)) == load()
    assert load(write("upstreams: {jina: {limits: , api_keys: }}")) == load()
    assert mistakes(write("upstreams: {mine: }")) == [
        "torii.yaml:1: upstreams.mine.kind: is missing; one of jina, aihubmix, openai",
        "torii.yaml:1: upstreams.mine.base_url: is missing",
    ]


# ---------------------------------------------------------------- secrets


def test_no_settings_object_shows_a_secret() -> None:
    given: dict[str, Any] = {
        "callers": [{"name": "a", "key": SECRET}, {"name": "b", "sha256": "ab" * 32}],
        "caller_key": SECRET,
        "upstreams": {"jina": {"api_key": SECRET}},
    }
    settings = Settings(**given)
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in shown
    assert "abab" not in repr(settings)


def test_settings_are_not_changed_after_they_are_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


YAML_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.just(SECRET), st.just(f"x{SECRET}y"), st.text()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "key", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*Settings.model_fields, "x"]), YAML_VALUE, max_size=4))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_any_file_loads_or_is_a_config_error_without_its_values(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    try:
        load(path)
    except ConfigError as error:
        found = error
    else:
        return
    assert SECRET not in str(found)
    assert len(found.mistakes) == len(set(found.mistakes)) > 0


# ---------------------------------------------------------------- keys and the operator


@pytest.mark.parametrize(
    "caller",
    [
        f"caller_key: {SECRET}",
        f"callers: [{{name: a, key: {SECRET}}}]",
        f"callers: [{{name: a, sha256: {hashlib.sha256(SECRET.encode()).hexdigest()}}}]",
    ],
)
def test_the_operators_key_is_nobody_elses(write: Write, caller: str) -> None:
    path = write(f"{caller}\noperator_key: {SECRET}")
    assert mistakes(path) == ["torii.yaml:2: operator_key: is also a caller's key; the operator needs a separate key"]


def test_the_operators_key_comes_from_where_callers_keys_do(
    monkeypatch: pytest.MonkeyPatch, write: Write, tmp_path: Path
) -> None:
    assert mistakes(write("operator_key: short")) == [
        "torii.yaml:1: operator_key: must have at least 16 characters; generate one with `openssl rand -hex 24`"
    ]
    (tmp_path / "secrets/torii_operator_key").write_text(f"{SECRET}\n")
    settings = load(sandbox="on")
    assert settings.operator_key is not None
    assert settings.operator_key.get_secret_value() == SECRET
    assert settings.open
    assert SECRET not in repr(settings)
    (tmp_path / "named").write_text("from-a-named-file-of-ours")
    monkeypatch.setenv("TORII_OPERATOR_KEY_FILE", str(tmp_path / "named"))
    named = load(sandbox="on").operator_key
    assert named is not None
    assert named.get_secret_value() == "from-a-named-file-of-ours"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{jina: {tier: gold}}", "upstreams.jina.tier: must be 'free', 'paid' or 'premium'"),
        (
            "{aihubmix: {tier: free}}",
            "upstreams.aihubmix: tier is for an upstream of kind jina only; set limits instead",
        ),
        (
            f"{{aihubmix: {{api_keys: [{{key: {SECRET}, tier: paid}}]}}}}",
            "upstreams.aihubmix: tier is for an upstream of kind jina only; set limits instead",
        ),
        (
            f"{{jina: {{api_key: {SECRET}, api_keys: [{{key: {SECRET}}}]}}}}",
            "upstreams.jina.api_keys: duplicate key; its limits would be counted twice",
        ),
        (
            f"{{jina: {{api_key: {SECRET}, api_keys: [{{key: another-key, name: '1'}}]}}}}",
            "upstreams.jina.api_keys: duplicate name; each key needs a name of its own",
        ),
    ],
)
def test_mistakes_with_keys(write: Write, text: str, said: str) -> None:
    assert mistakes(write(f"upstreams: {text}")) == [f"torii.yaml:1: {said}"]
