"""The Jinja environment chat templates run in: immutable, without access to Python, with what models' templates expect.

Knows Jinja and nothing of messages. The sandbox stops code execution; it does not bound time or memory. That is done by the
process around it (`renderer.py`).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2.parser import Parser

# Names every rendering gets or Jinja itself provides: what else a template reads is an option of that template.
GIVEN_NAMES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token", "unk_token"}
    | {"pad_token", "raise_exception", "strftime_now", "namespace", "dict", "range", "lipsum", "cycler", "joiner", "loop", "caller"}
)


class TemplateRefusalError(TemplateError):
    """The template called `raise_exception`: it understood the conversation and does not accept it."""


class TooLong(Exception):  # noqa: N818 - a signal between this module and template.py, never shown
    """More text than allowed was written."""


class GenerationTag(Extension):
    """`{% generation %} … {% endgeneration %}`: remembers where the text of the assistant stands.

    A position is right for a tag that writes straight into the output, as transformers has it too: inside a macro or a
    captured block the text before it is not known.
    """

    tags = {"generation"}  # noqa: RUF012 - the type Jinja declares

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.length = 0
        self.spans: list[tuple[int, int]] = []

    def start(self) -> None:
        """Forget the rendering before."""
        self.length = 0
        self.spans = []

    def parse(self, parser: Parser) -> nodes.Node:
        """Turn the tag into a call that receives its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        text = caller()
        self.spans.append((self.length, self.length + len(text)))
        return text


class SafeNamespace(Namespace):
    """Jinja's `namespace` without underscore names, which could reach into the object itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # like Jinja's own: `namespace(self=…)` is allowed
        values = dict(*args[1:], **kwargs)
        for name in values:
            _refuse_underscore(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold a name that begins with an underscore: {name!r}")


class SafeDict:
    """The `dict` of templates: makes dictionaries and shows nothing of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """As Python's."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As Python's."""
        return dict.fromkeys(*args)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes < > & ' for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object = "") -> NoReturn:
    raise TemplateRefusalError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # local time, as the templates mean it


def build_environment() -> ImmutableSandboxedEnvironment:
    """A fresh environment with the extensions, filters and functions that models' templates use."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationTag, "jinja2.ext.loopcontrols"],
        optimized=False,  # `{{ 'a' * 10**9 }}` would be computed while compiling
        cache_size=0,
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=SafeDict(), namespace=SafeNamespace
    )
    return environment


class CompiledTemplate:
    """A template text made ready to run. One rendering at a time."""

    def __init__(self, text: str) -> None:
        self._environment = build_environment()
        self._template = self._environment.from_string(text)
        self._text = text

    def run(self, context: Mapping[str, Any], max_chars: int) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text and the spans of its `{% generation %}` blocks.

        Raises:
            TooLong: more than `max_chars` characters.
        """
        tag = cast("GenerationTag", self._environment.extensions[GenerationTag.identifier])
        tag.start()
        pieces = []
        for piece in self._template.generate(**context):
            pieces.append(piece)
            tag.length += len(piece)
            if tag.length > max_chars:
                raise TooLong
        return "".join(pieces), tuple(tag.spans)

    def options(self) -> tuple[str, ...]:
        """Variables a caller may set: read without being given to every template or made by the template, sorted."""
        tree = self._environment.parse(self._text)
        made = _assigned(tree) - _defaulted(tree)
        return tuple(sorted(meta.find_undeclared_variables(tree) - GIVEN_NAMES - made))

    def reads(self, name: str) -> bool:
        """Whether the template reads the variable `name`."""
        return name in meta.find_undeclared_variables(self._environment.parse(self._text))


def _assigned(tree: nodes.Node) -> set[str]:
    """Names the template sets somewhere: by `set`, as a loop variable or as an argument of a macro."""
    return {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}


def _defaulted(tree: nodes.Node) -> set[str]:
    """Names the template sets only to give them a default: `{% if x is not defined %}{% set x = … %}`."""
    found: set[str] = set()
    for branch in tree.find_all(nodes.If):
        asked = {
            test.node.name
            for test in [branch.test, *branch.test.find_all(nodes.Test)]
            if isinstance(test, nodes.Test) and test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)
        }
        found |= asked & set().union(*map(_assigned, branch.body))
    return found
