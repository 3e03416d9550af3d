"""What is kept of another server: its name, addresses, key, kind, and which of its models are one and the same.

Knows which addresses can be meant; asks nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_serializer, field_validator

from modules.core.errors import InvalidRequest
from modules.core.files import checked_name

Kind = Literal["vllm", "sglang", "llama-server", "ollama", "tgi", "paddock", "openai"]
KindChoice = Literal["auto", "vllm", "sglang", "llama-server", "ollama", "tgi", "paddock", "openai"]

URL_LIMIT = 16
URL_LENGTH_LIMIT = 500
KEY_LIMIT = 500
NAME_LIMIT = 40
ALIAS_LIMIT = 64
MODEL_NAME_LIMIT = 300


class RemoteServer(BaseModel, frozen=True, extra="forbid"):
    """Another server: one or several addresses that serve the same models."""

    name: str
    urls: tuple[str, ...] = Field(min_length=1, max_length=URL_LIMIT)
    key: SecretStr | None = Field(None, repr=False)
    kind: KindChoice = "auto"
    aliases: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, max_length=ALIAS_LIMIT
    )  # our name → its names at the addresses

    @field_validator("name")
    @classmethod
    def _short_name(cls, value: str) -> str:
        try:
            name = checked_name(value, "name of a server")
        except InvalidRequest as error:
            raise ValueError(error.message) from error
        if len(name) > NAME_LIMIT:
            raise ValueError(f"a name has at most {NAME_LIMIT} characters, this has {len(name)}")
        return name

    @field_validator("urls")
    @classmethod
    def _base_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(base_address(url) for url in value))

    @field_validator("key")
    @classmethod
    def _plain_key(cls, value: SecretStr | None) -> SecretStr | None:
        secret = value.get_secret_value().strip() if value is not None else ""
        if len(secret) > KEY_LIMIT or not all("!" <= letter <= "~" for letter in secret):
            raise ValueError(
                f"a key has at most {KEY_LIMIT} characters, without spaces and line breaks; copy it again"
            )
        return SecretStr(secret) if secret else None

    @field_validator("aliases")
    @classmethod
    def _usable_aliases(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for alias, names in value.items():
            if not names or any(not 0 < len(name) <= MODEL_NAME_LIMIT for name in (alias, *names)):
                raise ValueError(
                    f"give each shared name the names it stands for, 1 to {MODEL_NAME_LIMIT} characters each"
                )
        return value

    @field_serializer("key", when_used="unless-none")
    def _hidden(self, key: SecretStr) -> str:
        """Only `stored` writes the key out."""
        return str(key)

    def stored(self) -> dict[str, object]:
        """The content of its file, with the key."""
        return {
            **self.model_dump(mode="json"),
            "key": self.key.get_secret_value() if self.key is not None else None,
        }


def base_address(url: str) -> str:
    """The address below which `/v1/models` lies.

    Raises:
        ValueError: not an address of a server.
    """
    given = url.strip()
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        len(given) > URL_LENGTH_LIMIT
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
    ):
        raise ValueError(f"“{given[:80]}” is no address of a server: give it like http://192.168.0.10:8000")
    if "@" in parts.netloc or parts.query or parts.fragment or any(letter <= " " for letter in given):
        raise ValueError(
            f"the address of {parts.hostname} holds more than host, port and path; put a key into its own field"
        )
    path = parts.path.rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc.lower(), path.removesuffix("/v1"), "", ""))


def host_of(url: str) -> str:
    """Host and port of an address, for people."""
    return urlsplit(url).netloc


def is_here(url: str) -> bool:
    """Whether an address names this machine itself. A tunnel that begins here is not seen through."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_from(values: Mapping[str, object]) -> RemoteServer:
    """A server from plain values.

    Raises:
        InvalidRequest: naming the field and what is wrong with it.
    """
    try:
        return RemoteServer.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"The server cannot be kept: {message.rstrip('.')}.", field=field) from error
