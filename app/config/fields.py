"""Field types and their error messages. Messages never quote the value: it could be a secret in the wrong place."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from ..core.origins import host_name, page_origin
from ..core.zones import zone_of
from ..endpoints import ENDPOINTS, PERMITTED
from ..endpoints.web_options import SECRETS
from ..storage.files import read
from ..storage.postgres.address import checked as checked_postgres
from ..storage.redis.address import checked
from ..upstreams.catalogue import PREFIX
from ..upstreams.client.proxies import parse
from .sources import QUOTED, quoted

if TYPE_CHECKING:
    EndpointName = str
    PermittedName = str
    SecretOption = str
else:  # the names in the registry and in the table
    EndpointName = Literal[tuple(ENDPOINTS)]
    PermittedName = Literal[PERMITTED]
    SecretOption = Literal[SECRETS]

DEEPSEARCH_LEAST = 10_000  # tokens, the smallest budget of a DeepSearch run
AUTO = "auto"
NONE = "none"
OFF = "off"
KEY_MINIMUM = 16
MAPPED = 96  # bits before the IPv4 address in a mapped one, ::ffff:192.0.2.7
# The example key in .env.example, refused because it is public.
PLACEHOLDER = "change-me-this-is-only-an-example"
KNOWN = "is the published example key; generate one with `openssl rand -hex 24`"

_UPSTREAM_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
# Endings of a base URL that wrongly includes an endpoint's path or its beginning: /chat/completions, /chat. Pages and
# searches are at the root of hosts of their own, so /reader may be where a proxy has them.
_ENDPOINT_PATHS = [
    ending
    for endpoint in ENDPOINTS.values()
    if not endpoint.gets
    for ending in accumulate(f"/{part}" for part in endpoint.paths[0].split("/")[2:])
]
SHA256 = re.compile(r"[0-9a-f]{64}")


def number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false (YAML reads on, off, yes and no as true or false)")
    return value


def switch(value: Any) -> Any:
    """YAML reads a bare ``on`` or ``off`` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else lower(value)


def lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def none(value: Any) -> Any:
    return None if value == NONE else value


def url(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        sound = False
    if not sound or any(char.isspace() or not char.isprintable() for char in url):
        raise ValueError("must be a URL such as https://host.example/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be a plain URL: no user, password, query or fragment; a key belongs in api_key")
    path = parts.path.rstrip("/")
    if endpoint := next(filter(path.endswith, _ENDPOINT_PATHS), None):
        raise ValueError(f"must end before {endpoint}, such as https://host.example/v1")
    return url.rstrip("/")


def secret(value: Any) -> Any:
    """A secret without surrounding whitespace, such as a file's line end; an empty secret is None."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (text.strip() or None) if isinstance(text, str) else text


def sendable(secret: SecretStr | None) -> SecretStr | None:
    if secret and quoted(secret.get_secret_value()):
        raise ValueError(QUOTED)
    if secret and not re.fullmatch(r"[\x21-\x7e]+", secret.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces, because it is sent in an HTTP header")
    return secret


def strong(secret: SecretStr | None) -> SecretStr | None:
    if secret and quoted(secret.get_secret_value()):
        raise ValueError(QUOTED)
    if secret and secret.get_secret_value() == PLACEHOLDER:
        raise ValueError(KNOWN)
    if secret and len(secret.get_secret_value()) < KEY_MINIMUM:
        raise ValueError(f"must have at least {KEY_MINIMUM} characters; generate one with `openssl rand -hex 24`")
    return sendable(secret)


def ledger_path(value: Any) -> Any:
    """YAML reads a bare ``off`` as false."""
    if value is True:
        raise ValueError("must be auto, off or the name of a file")
    text = OFF if value is False else value
    return text.lower() if isinstance(text, str) and text.lower() in (AUTO, OFF) else text


def redis(url: SecretStr | None) -> SecretStr | None:
    if url:
        checked(url.get_secret_value())
    return url


def postgres(url: SecretStr | None) -> SecretStr | None:
    return SecretStr(checked_postgres(url.get_secret_value())) if url else None


def key_prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("must have 1 to 64 letters, digits, dots, hyphens and underscores, such as torii")
    return text


def webhook(url: SecretStr) -> SecretStr:
    """The URL may hold a secret, in its path or query."""
    parts = urlsplit(url.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[^\x21-\x7e]", parts.geturl()):
        raise ValueError("must be a URL such as https://hooks.example/alerts")
    return url


def zone(name: str) -> str:
    """Raises ValueError, with the nearest name."""
    try:
        zone_of(name)
    except ValueError as error:
        near = str(error).rpartition("Nearest: ")[2]
        raise ValueError(f"must be a time zone of the IANA list, such as Europe/Berlin; nearest: {near}") from None
    return name


def network(text: str) -> str:
    """An address or a network in CIDR form. Raises ValueError."""
    try:
        found = ipaddress.ip_network(text.strip(), strict=False)
        if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= MAPPED and found[0].ipv4_mapped:
            # Addresses of callers are compared as IPv4 where they are mapped.
            found = ipaddress.ip_network((found[0].ipv4_mapped, found.prefixlen - MAPPED))
        return str(found)
    except ValueError:
        raise ValueError("must be an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32") from None


def proxied(url: SecretStr | None) -> SecretStr | None:
    if url:
        if quoted(url.get_secret_value()):
            raise ValueError(QUOTED)
        parse(url.get_secret_value())
    return url


def listener(host: str) -> str:
    if not (_address(host) if ":" in host else re.fullmatch(r"[\w.-]+", host)):
        raise ValueError("must be an address or a host name, such as 127.0.0.1 or 0.0.0.0")
    return host


def _address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Authority:
    """A file of PEM certificates and its contents. It is read once, at loading, never while calls are served."""

    path: Path
    pem: bytes = field(repr=False)


def authority(given: Any) -> Any:
    """The certificates of a file. Raises ValueError if the file cannot be read or holds no certificates."""
    if given is None or isinstance(given, Authority):
        return given
    if not isinstance(given, str | Path):
        raise ValueError("must be the name of a file")
    import ssl  # only needed if ca_file is set

    try:
        found = Authority(Path(given), read(Path(given)))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found.pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise ValueError("must be a file of PEM certificates, with lines -----BEGIN CERTIFICATE-----") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    return found


def upstream_name(name: str) -> str:
    if not _UPSTREAM_NAME.fullmatch(name) or name in (AUTO, NONE, PREFIX.rstrip("/")):
        raise ValueError("a name has 1 to 32 characters of a-z, 0-9, - and _; auto, none and jina-ai are reserved")
    return name


def listed(value: Any) -> Any:
    """A list; a string, as from a variable, is read as JSON or split at commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            raise ValueError("must be a list, separated by commas or in JSON") from None
    return [text for part in value.split(",") if (text := part.strip())]


HostNames = Annotated[list[Annotated[str, AfterValidator(host_name)]], NoDecode, BeforeValidator(listed)]
PageOrigins = Annotated[list[Annotated[str, AfterValidator(page_origin)]], NoDecode, BeforeValidator(listed)]
SecretOptions = Annotated[list[SecretOption], NoDecode, BeforeValidator(listed)]
UpstreamName = Annotated[str, AfterValidator(upstream_name)]
UpstreamKey = Annotated[SecretStr | None, BeforeValidator(secret), AfterValidator(sendable)]
CallerKey = Annotated[SecretStr | None, BeforeValidator(secret), AfterValidator(strong)]
ProxyUrl = Annotated[SecretStr | None, BeforeValidator(secret), AfterValidator(proxied)]
RedisUrl = Annotated[SecretStr | None, BeforeValidator(secret), AfterValidator(redis)]
PostgresUrl = Annotated[SecretStr | None, BeforeValidator(secret), AfterValidator(postgres)]
KeyPrefix = Annotated[str, AfterValidator(key_prefix)]
WebhookUrl = Annotated[SecretStr, BeforeValidator(secret), AfterValidator(webhook)]
Zone = Annotated[str, AfterValidator(zone)]
Network = Annotated[str, AfterValidator(network)]
Networks = Annotated[list[Network], NoDecode, BeforeValidator(listed)]
Url = Annotated[str, AfterValidator(url)]
Switch = Annotated[Literal["off", "on", "auto"], BeforeValidator(switch)]
LedgerPath = Annotated[str, BeforeValidator(ledger_path), Field(min_length=1, max_length=4096)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, BeforeValidator(number), Field(ge=1)]
DeepSearchBudget = Annotated[int, BeforeValidator(number), Field(ge=DEEPSEARCH_LEAST)]
Seconds = Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, BeforeValidator(number), Field(ge=0, le=65535)]


def spoken(given: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """Without lists, mappings and sections that are null: in the file, all their lines are commented out."""
    if not isinstance(given, dict):
        return given
    return {
        name: value
        for name, value in given.items()
        if value is not None or name not in fields or not _holds(fields[name].annotation)
    }


def _holds(annotation: Any) -> bool:
    return get_origin(annotation) is list or holds_keys(annotation)


def holds_keys(annotation: Any) -> bool:
    return get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, Section))


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _spoken(cls, given: Any) -> Any:
        return spoken(given, cls.model_fields)
