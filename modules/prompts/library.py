"""Where templates are found: prompt templates as files of the library, and the template a model brings with it.

A prompt template is `NAME.yaml` (template, description, stop, source) or `NAME.jinja` (the bare template). What is saved lies in the folder
`own/` beside the shipped ones and stands before one of the same name, so a shipped one is never changed. Reads files, renders nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modules.core.errors import InvalidRequest, NotFound
from modules.core.files import ReadFiles, checked_name, dump_yaml, path_below, read_yaml, write_atomic
from modules.core.model import TemplateSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MAX_TEMPLATE_BYTES = 1024 * 1024
MAX_CONFIG_BYTES = 32 * 1024 * 1024  # tokenizer_config.json lists every added token of the model
MAX_STOP_STRINGS = 16
SUFFIXES = (".yaml", ".jinja")
DEFAULT_NAME = "default"
OWN_FOLDER = "own"

Kind = Literal["shipped", "own", "changed"]  # changed: an own one stands before a shipped one of that name


@dataclass(frozen=True, slots=True)
class TemplateSummary:
    """A line of the list of prompt templates; `problem` is a sentence when the file cannot be used."""

    name: str
    description: str = ""
    problem: str = ""
    kind: Kind = "shipped"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt template with all that its file says; `stamp` is another one after each change of the file."""

    name: str
    source: TemplateSource
    description: str
    kind: Kind
    stamp: str


@dataclass(frozen=True, slots=True)
class _Entry:
    stamp: str
    source: TemplateSource
    description: str


class TemplateLibrary:
    """The folder of prompt templates. Files may come, change and go at any time; they are read again when changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = ReadFiles(_read_prompt_template)

    def list(self) -> tuple[TemplateSummary, ...]:
        """All prompt templates by name, broken ones with their problem."""
        names = {
            path.stem
            for folder in (self.folder, self.folder / OWN_FOLDER)
            for suffix in SUFFIXES
            for path in folder.glob(f"*{suffix}")
            if not path.name.startswith(".")
        }
        return tuple(self._summary(name) for name in sorted(names, key=str.casefold))

    def _summary(self, name: str) -> TemplateSummary:
        try:
            kind = self._kind(self._paths(name))
        except (InvalidRequest, NotFound) as error:
            return TemplateSummary(name, problem=error.message)
        try:
            return TemplateSummary(name, self._entry(name).description, kind=kind)
        except (InvalidRequest, NotFound) as error:
            return TemplateSummary(name, problem=error.message, kind=kind)

    def read(self, name: str) -> TemplateSource:
        """The template of that name, without special tokens: `bos.for_model` adds those of a model.

        Raises:
            NotFound: there is none.
            InvalidRequest: the name or the file is not valid.
        """
        return self._entry(name).source

    def find(self, name: str) -> PromptTemplate:
        """The template of that name with all that its file says; `Raises` as `read`."""
        paths, entry = self._paths(name), self._entry(name)
        return PromptTemplate(paths[0].stem, entry.source, entry.description, self._kind(paths), entry.stamp)

    def save(self, name: str, text: str, *, description: str = "", stop: Sequence[str] = ()) -> TemplateSource:
        """Write an own prompt template, replacing an own one of that name. Whether it compiles is for a renderer to say.

        Raises:
            InvalidRequest: the name or the text is not valid.
        """
        path = path_below(self.folder / OWN_FOLDER, name, ".yaml", "template")
        values = {"description": description.strip(), "template": text, "stop": list(stop)}
        _checked(values, f"prompt template “{path.stem}”")
        content = dump_yaml({key: value for key, value in values.items() if value})
        read_yaml(content, f"The prompt template “{path.stem}”")  # also refuses what could not be read back
        write_atomic(path, content)
        return self.read(path.stem)

    def own_file(self, name: str) -> str:
        """The file of an own prompt template as it stands.

        Raises:
            NotFound: there is none.
        """
        return _text_of(self._own_paths(name)[0], MAX_TEMPLATE_BYTES)

    def delete(self, name: str) -> None:
        """Remove an own prompt template; a shipped one of that name counts again.

        Raises:
            NotFound: there is none, or only a shipped one.
        """
        for path in self._own_paths(name):
            path.unlink(missing_ok=True)
            self._read.forget(path)

    def _own_paths(self, name: str) -> tuple[Path, ...]:
        found = tuple(path for path in self._paths(name) if path.parent.name == OWN_FOLDER)
        if not found:
            raise NotFound(f"“{checked_name(name, 'template')}” comes with Paddock and stays. Only templates of your own can be deleted.")
        return found

    def _paths(self, name: str) -> tuple[Path, ...]:
        """The existing files of a name, the one that counts first."""
        folders = (self.folder / OWN_FOLDER, self.folder)
        every = (path_below(folder, name, suffix, "template") for folder in folders for suffix in SUFFIXES)
        found = tuple(path for path in every if path.is_file())
        if not found:
            raise NotFound(f"There is no prompt template “{checked_name(name, 'template')}”. Choose one from the list.", field="prompt_template")
        return found

    @staticmethod
    def _kind(paths: Sequence[Path]) -> Kind:
        if paths[0].parent.name != OWN_FOLDER:
            return "shipped"
        return "own" if paths[-1].parent.name == OWN_FOLDER else "changed"

    def _entry(self, name: str) -> _Entry:
        return self._read.of(self._paths(name)[0])


def _read_prompt_template(path: Path) -> _Entry:
    status = path.stat()  # before reading: a change meanwhile makes another stamp
    return _Entry(f"{status.st_mtime_ns}-{status.st_size}", *read_template(_text_of(path, MAX_TEMPLATE_BYTES), path.name))


def read_template(text: str, file_name: str) -> tuple[TemplateSource, str]:
    """Template and description of a file with that text; the ending of its name says how it is written.

    Raises:
        InvalidRequest: it is no prompt template.
    """
    stem, _, suffix = file_name.rpartition(".")
    origin = f"prompt template “{stem or file_name}”"
    if suffix in ("jinja", "jinja2", "txt"):
        return _checked({"template": text}, origin), ""
    values = read_yaml(text, file_name)
    if not isinstance(values, dict):
        raise InvalidRequest(f"{file_name} must hold the keys template, description and stop.", field="template")
    if "template" not in values and "instruction_template" in values:  # the key that other web interfaces use
        values["template"] = values["instruction_template"]
    return _checked(values, origin), str(values.get("description") or "")


def _checked(values: Mapping[str, Any], origin: str) -> TemplateSource:
    """The template of a file's values, or `InvalidRequest` with what is wrong."""
    text, stop = values.get("template"), values.get("stop") or []
    if not isinstance(text, str) or not text.strip():
        raise InvalidRequest(f"The {origin} has no text under the key “template”; write one.", field="template")
    if len(text.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise _too_large(origin, len(text), MAX_TEMPLATE_BYTES)
    if not isinstance(stop, list) or not all(isinstance(item, str) and item.strip() for item in stop) or len(stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"“stop” of the {origin} must be a list of at most {MAX_STOP_STRINGS} strings.", field="stop")
    return TemplateSource(text=text, origin=origin, stop=tuple(stop))


def own_templates(folder: Path) -> dict[str, TemplateSource]:
    """Every chat template of a safetensors model folder by name; “default” is the one for ordinary chats.

    Order as in transformers: `chat_template.jinja` and `additional_chat_templates/` before `tokenizer_config.json` (one text or a
    list of name and template), `chat_template.json` last.

    Raises:
        InvalidRequest: a file is too large or not readable as what it should be.
    """
    config = _json_of(folder / "tokenizer_config.json")
    found: dict[str, tuple[str, str]] = {}
    for name, text, origin in (*_template_files(folder), *_template_values(config, "tokenizer_config.json")):
        found.setdefault(name, (text, origin))
    if not found:
        for name, text, origin in _template_values(_json_of(folder / "chat_template.json"), "chat_template.json"):
            found.setdefault(name, (text, origin))
    tokens = {**_json_of(folder / "special_tokens_map.json"), **config}
    bos_token, eos_token = _token_text(tokens.get("bos_token")), _token_text(tokens.get("eos_token"))
    return {name: _own(text, origin, bos_token, eos_token) for name, (text, origin) in found.items()}


def own_template(folder: Path) -> TemplateSource | None:
    """The chat template for ordinary chats of a safetensors model folder; `Raises` as `own_templates`."""
    return _preferred(own_templates(folder))


def gguf_templates(metadata: Mapping[str, Any], *, bos_token: str = "", eos_token: str = "") -> dict[str, TemplateSource]:
    """Every chat template in the metadata of a GGUF file by name, given with its special tokens as text.

    Raises:
        InvalidRequest: a template is too large.
    """
    found: dict[str, TemplateSource] = {}
    for key, value in metadata.items():
        name = DEFAULT_NAME if key == "tokenizer.chat_template" else key.removeprefix("tokenizer.chat_template.")
        if isinstance(value, str) and value.strip() and (name == DEFAULT_NAME or name != key):
            found[name] = _own(value, "GGUF metadata" if name == DEFAULT_NAME else f"GGUF metadata, “{name}”", bos_token, eos_token)
    return found


def gguf_template(metadata: Mapping[str, Any], *, bos_token: str = "", eos_token: str = "") -> TemplateSource | None:
    """The chat template for ordinary chats of a GGUF file; arguments and `Raises` as `gguf_templates`."""
    return _preferred(gguf_templates(metadata, bos_token=bos_token, eos_token=eos_token))


def _preferred(found: Mapping[str, TemplateSource]) -> TemplateSource | None:
    if DEFAULT_NAME in found:
        return found[DEFAULT_NAME]
    # Named ones are for special uses (tool_use, rag); a model with nothing else is used with the first by name.
    return found[min(found)] if found else None


def _own(text: str, origin: str, bos_token: str, eos_token: str) -> TemplateSource:
    if len(text.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise _too_large(f"chat template ({origin})", len(text.encode(errors="replace")), MAX_TEMPLATE_BYTES)
    return TemplateSource(text=text, origin=origin, bos_token=bos_token, eos_token=eos_token)


def _template_files(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Name, text and origin of the template files of a model folder."""
    single = folder / "chat_template.jinja"
    if single.is_file():
        yield DEFAULT_NAME, _text_of(single, MAX_TEMPLATE_BYTES), single.name
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        yield path.stem, _text_of(path, MAX_TEMPLATE_BYTES), f"additional_chat_templates/{path.name}"


def _template_values(config: Mapping[str, Any], origin: str) -> Iterator[tuple[str, str, str]]:
    """The same from the `chat_template` of a JSON file: a text, a list of name and template, or a mapping."""
    value = config.get("chat_template")
    if isinstance(value, str):
        value = {DEFAULT_NAME: value}
    elif isinstance(value, list):
        value = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
    if isinstance(value, dict):
        for name, text in value.items():
            if isinstance(name, str) and isinstance(text, str) and text.strip():
                yield name, text, origin if name == DEFAULT_NAME else f"{origin}, “{name}”"


def _token_text(value: object) -> str:
    """A special token as `"<s>"`, `{"content": "<s>", …}` or null."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _text_of(path: Path, limit_bytes: int) -> str:
    size_bytes = path.stat().st_size
    if size_bytes > limit_bytes:
        raise _too_large(path.name, size_bytes, limit_bytes)
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is not UTF-8 text: {error}.", field="template") from error


def _json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text_of(path, MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path.name} is not valid JSON: {error}. Download the model again.", field="model") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path.name} does not hold a JSON object. Download the model again.", field="model")
    return value


def _too_large(what: str, got: int, limit: int) -> InvalidRequest:
    return InvalidRequest(f"The {what} has {got:,} bytes; the limit is {limit:,}. Use a shorter one.", field="template")
