"""Settings of the server: one frozen model that becomes flags, environment names, YAML keys and a documentation table.

Precedence: flag, then environment (`PADDOCK_` + upper-case name), then YAML file, then default. What lets code run is a flag alone
(`BY_HAND`). Made once, passed as an argument; knows nothing of what its values are used for.
"""

from __future__ import annotations

import argparse
import os
import types
import typing
from collections.abc import Container, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

from modules.core.errors import InvalidRequest
from modules.core.files import read_yaml
from modules.core.trusted_code import FLAG, split_trust

PROJECT_ROOT = Path(__file__).resolve().parents[2]
GIVEN_LIMIT = 100  # characters of a wrong value that a sentence quotes
WHERE_LIMIT = 100  # and of the name of a field, which may be one that a client made up
SAYING_ALL = ("value_error", "union_tag_not_found")  # errors that are about an object as a whole and say what it lacks
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
BY_HAND = frozenset({"trust_code"})  # given on the command line or not at all


class Settings(BaseModel, frozen=True, extra="forbid"):
    """Everything that can be set before the server starts."""

    host: str = Field("127.0.0.1", description="Address to listen on; anything but this machine's own needs an account or --api-key.")
    port: int = Field(7860, ge=0, le=65_535, description="Port of page and API; if not given, the next free one is taken when this is in use.")
    model: str = Field("", description="Model to load at start, as named in models/; empty loads the last one used, then the starter model; 'none' loads nothing.")
    loader: str = Field("", description="How to load it: llama.cpp or transformers; empty chooses by the files.")
    options: dict[str, Any] = Field(default_factory=dict, description="Loader options as NAME=VALUE, for example context_length=4096; may be repeated.")
    adapters: tuple[str, ...] = Field((), description="LoRA adapter of loras/ for the model loaded at start, NAME or NAME=SCALE; may be repeated.")
    trust_code: tuple[str, ...] = Field((), description="Model whose own Python files may be run, NAME@COMMIT with all 40 letters and digits of the commit; may be repeated. Its code can do whatever this account can.")
    models_dir: Path = Field(PROJECT_ROOT / "models", description="Folder with models.")
    loras_dir: Path = Field(PROJECT_ROOT / "loras", description="Folder with LoRA adapters.")
    model_folders: tuple[Path, ...] = Field((), description="Further folder with models, only read: the hub's cache, LM Studio's, Ollama's, or any other; may be repeated.")
    datasets_dir: Path = Field(PROJECT_ROOT / "datasets", description="Folder with data sets to train on.")
    presets_dir: Path = Field(PROJECT_ROOT / "presets", description="Folder with presets.")
    templates_dir: Path = Field(PROJECT_ROOT / "prompt_templates", description="Folder with prompt templates.")
    characters_dir: Path = Field(PROJECT_ROOT / "characters", description="Folder with characters.")
    prompt_template: str = Field("", description="Prompt template for models for which none is chosen on the Templates page; empty is the model's own.")
    state_dir: Path = Field(PROJECT_ROOT / ".state", description="Folder for conversations, logs and saved settings; private to you.")
    config: Path | None = Field(None, description="YAML file with these settings; default is settings.yaml in the state folder.")
    api_key: SecretStr | None = Field(None, description="Key that API clients must send; with --host it also opens the page. Where there are accounts it is an administrator's. Better given as PADDOCK_API_KEY.")
    multi_user: bool = Field(False, description="Several people share the page: each browser sees only its own conversations, kept in memory, and only who has the API key changes what belongs to all. The page itself then needs no key.")
    ui: bool = Field(True, description="Serve the page; --no-ui leaves only the API.")
    allowed_hosts: tuple[str, ...] = Field((), description="Further host names under which this server is reached, for example behind a proxy.")
    allowed_origins: tuple[str, ...] = Field((), description="Web origins that may call the API from a browser.")
    root_path: str = Field("", description="Path prefix that a proxy strips, for example /llm.")
    trusted_proxy: tuple[str, ...] = Field((), description="Address or network (10.0.0.0/8) of a proxy whose word is taken for where clients come from and whether they speak https; may be repeated.")
    ssl_certfile: Path | None = Field(None, description="PEM file with the certificate (and those it is signed by): page and API are then served over https.")
    ssl_keyfile: Path | None = Field(None, description="PEM file with the private key of the certificate, if that file does not hold it.")
    connections_per_address: int = Field(256, ge=1, le=100_000, description="Most open connections of one address; behind a proxy all have the address of the proxy, also of a trusted one.")
    queue_limit: int = Field(64, ge=1, le=10_000, description="Most requests waiting for one model.")
    queue_limit_per_person: int = Field(0, ge=0, le=10_000, description="Most requests of one person waiting for one model; 0 is half of the queue limit where several people share the server, and all of it where one has it alone.")
    daily_tokens: int = Field(0, ge=0, le=10**12, description="Most tokens a day that are computed for one person whose account says nothing else; days begin at 00:00 UTC, 0 is no limit.")
    loaded_models: int = Field(1, ge=1, le=16, description="Most models loaded at the same time; the least recently used one makes room.")
    idle_unload_s: float = Field(0, ge=0, description="A loaded model that nobody used for so long gives its memory back until it is used again; 0 means never.")
    load_on_demand: bool = Field(True, description="Load a model when an API request names it.")
    template_check: bool = Field(True, description="Examine the template of a loaded model while nobody uses it, with a reply of twenty tokens; --no-template-check leaves only the look while it is loaded.")
    stop_when_closed: bool = Field(True, description="Stop a reply when the last browser tab that shows it is closed; --no-stop-when-closed lets it go on.")
    step_timeout_s: float = Field(120, ge=5, le=86_400, description="An engine whose step takes longer is taken for hung and restarted.")
    load_timeout_s: float = Field(900, ge=5, le=86_400, description="Longest time a model may take to load.")
    hub_endpoint: str = Field("https://huggingface.co", description="Where models are searched and downloaded: the hub, or a mirror of it.")
    hub_token: SecretStr | None = Field(None, description="Token for gated models, if none was given on the page. Better given as PADDOCK_HUB_TOKEN.")
    token_to_mirror: bool = Field(False, description="Send the token to the mirror named by --hub-endpoint too.")
    offline: bool = Field(False, description="Never ask the hub: no search and no download.")
    verbose: bool = Field(False, description="Log more; prompts and replies are never logged.")

    @field_validator("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir", "config", "ssl_certfile", "ssl_keyfile")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().resolve() if value is not None else None

    @field_validator("model_folders")
    @classmethod
    def _all_absolute(cls, values: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(value.expanduser().absolute() for value in values)

    @field_validator("trust_code")
    @classmethod
    def _one_commit_each(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        names = [split_trust(value)[0] for value in values]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"{FLAG} names “{twice}” twice; name one commit of it")
        return values

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("root_path begins with a slash, for example /llm")
        return value.rstrip("/")

    @field_validator("trusted_proxy")
    @classmethod
    def _networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                ip_network(value)
            except ValueError:
                raise ValueError("an address (10.0.0.2) or a network (10.0.0.0/8) is needed") from None
        return values

    @property
    def scheme(self) -> str:
        """How the address begins at which it serves."""
        return "https" if self.ssl_certfile is not None else "http"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK_HOSTS or self.host.startswith("127.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is(annotation: Any, kind: type) -> bool:
    """Whether an annotation is `kind` or an optional of it."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_is(part, kind) for part in typing.get_args(annotation))
    origin = typing.get_origin(annotation) or annotation
    return origin is kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server.py",
        description="Paddock: run open models on your own machine, with a page and an OpenAI-compatible API on one port.",
        epilog="server.py download MODEL fetches a model without the page; server.py convert NAME makes safetensors of one that has pickles; server.py users and server.py keys make accounts and keys. Each flag but --trust-code can also be given as an environment variable (PADDOCK_PORT=8000) or as a key in settings.yaml.",
    )
    _add_flags(parser)
    return parser


def _add_flags(parser: argparse.ArgumentParser) -> None:
    for name, field in Settings.model_fields.items():
        text = (field.description or "").replace("%", "%%")
        if _is(field.annotation, bool):
            parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, default=None, help=text)
        elif _is(field.annotation, tuple) or _is(field.annotation, dict):
            parser.add_argument(_flag(name.removesuffix("s")), action="append", dest=name, default=None, metavar="VALUE", help=text)
        else:
            shown = "" if field.default in (None, "") or isinstance(field.default, Path) else f" Default: {field.default}."
            parser.add_argument(_flag(name), default=None, metavar="VALUE", help=text + shown)


class SettingFlags:
    """The settings as flags of a command that has arguments of its own; what was given of them is read by `read_settings(given)`."""

    def __init__(self) -> None:
        """Nothing was given so far."""
        self.given: list[str] = []

    def add_to(self, parser: argparse.ArgumentParser, shown: Container[str] = ("state_dir", "config")) -> None:
        """Let a parser know them all, so that it takes none of them and none of their values for an argument; its help names only those that are shown."""
        whole = argparse.ArgumentParser(add_help=False)
        _add_flags(whole)
        given = self.given

        class Given(argparse.Action):
            """Keeps a flag as it was typed."""

            def __call__(self, _: argparse.ArgumentParser, __: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
                given.append(str(option_string) if self.nargs == 0 else f"{option_string}={values}")

        for action in whole._actions:
            text = action.help if action.dest in shown else argparse.SUPPRESS
            parser.add_argument(*action.option_strings, action=Given, nargs=action.nargs, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, metavar=action.metavar, help=text)


def _options(pairs: Sequence[str], source: str) -> dict[str, Any]:
    """`["context_length=4096"]` → `{"context_length": 4096}`; values are read as YAML scalars."""
    result: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InvalidRequest(f"{source}: “{pair}” is not NAME=VALUE, for example context_length=4096.")
        result[name.strip()] = read_yaml(value, source) if value else ""
    return result


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        raw = environ.get("PADDOCK_" + name.upper())
        if raw is None:
            continue
        _check_by_hand(name, "PADDOCK_" + name.upper())
        if _is(field.annotation, dict):
            values[name] = _options([part for part in raw.split(",") if part], "PADDOCK_" + name.upper())
        elif _is(field.annotation, tuple):
            values[name] = tuple(part.strip() for part in raw.split(",") if part.strip())
        else:
            values[name] = raw
    return values


def _from_file(path: Path, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise InvalidRequest(f"The settings file {path} does not exist; correct --config or leave it out.")
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidRequest(f"The settings file {path} cannot be read: {reason}. Correct it, or name another one with --config.") from error
    values = read_yaml(text, str(path)) or {}
    if not isinstance(values, dict):
        raise InvalidRequest(f"{path} must hold one “name: value” a line.")
    stored = {str(key).replace("-", "_"): value for key, value in values.items()}
    for name in stored:
        _check_by_hand(name, f"{name} in {path}")
    return stored


def _check_by_hand(name: str, place: str) -> None:
    if name in BY_HAND:
        raise InvalidRequest(f"{place}: this is given on the command line only, as {_flag(name)}. Take it out there.")


def validation_sentence(error: ValidationError) -> str:
    """The first problem of a pydantic error as a sentence: field, what is allowed, what was given."""
    first = error.errors()[0]
    if first["type"] == "value_error" and not first["loc"]:  # about several fields together, and it names them
        return f"{first['msg'].removeprefix('Value error, ')}."
    where = ".".join(str(part) for part in first["loc"])[:WHERE_LIMIT] or "value"
    if first["type"] == "extra_forbidden":
        return f"“{where}” is not known; check the spelling."
    message = problem_words(first)
    return f"{where}: {message[:1].lower() + message[1:]}."


def problem_words(first: Mapping[str, Any]) -> str:
    """What is wrong by one of pydantic's errors, and what was given, shortened. A field that is missing, and a rule about several, were given nothing but all the rest."""
    message = str(first["msg"]).removeprefix("Value error, ")
    tag = str(first.get("ctx", {}).get("tag", ""))
    if len(tag) > GIVEN_LIMIT:  # pydantic repeats it whole
        message = message.replace(tag, tag[:GIVEN_LIMIT] + "…")
    given = first.get("input")
    told = first["type"] in ("missing", "union_tag_invalid") or "; got " in message or (isinstance(given, Mapping) and first["type"] in SAYING_ALL)
    return message if told else f"{message}; got {given_words(given, GIVEN_LIMIT)}"


def given_words(value: Any, limit: int) -> str:
    """What was given, as a sentence about it shows it."""
    try:
        given = repr(value)
    except RecursionError:
        return "something that is nested too deeply"
    return given if len(given) <= limit else given[:limit] + "…"


def read_settings(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> tuple[Settings, frozenset[str]]:
    """Settings and the names that were given rather than defaulted.

    Raises:
        InvalidRequest: a value outside its limits, naming the setting.
        SystemExit: after `--help`.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in vars(_parser().parse_args(argv)).items() if value is not None}
    if "options" in flags:
        flags["options"] = _options(flags["options"], "--option")
    values = {**_from_environment(environ), **flags}
    state_dir = Path(values.get("state_dir", Settings.model_fields["state_dir"].default)).expanduser()
    config = values.get("config")
    stored = _from_file(Path(config).expanduser() if config else state_dir / "settings.yaml", required=bool(config))
    values = {**stored, **values}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise InvalidRequest("Settings: " + validation_sentence(error)) from error
    return settings, frozenset(values)


def settings_table() -> str:
    """Markdown table of all settings, for the documentation."""
    lines = ["| flag | environment | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = default.name + "/" if isinstance(default, Path) else "" if default is None else str(default)
        flag = _flag(name.removesuffix("s") if _is(field.annotation, tuple) or _is(field.annotation, dict) else name)
        environment = "only the flag" if name in BY_HAND else f"`PADDOCK_{name.upper()}`"
        lines.append(f"| `{flag}` | {environment} | {shown} | {field.description} |")
    return "\n".join(lines)
