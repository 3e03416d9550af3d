"""Any pydantic model as a form of stock components, and back.

One `FormField` for each field: its component, its value as shown, its value as read. Bounds, choices, sentences and groups come from the
model itself, so a new field needs nothing here. Knows no service and no page.
"""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from modules.core.errors import InvalidRequest
from modules.core.settings import problem_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gradio.components import Component
    from pydantic.fields import FieldInfo

Kind = Literal["switch", "slider", "number", "choice", "choices", "text", "optional", "lines", "numbers", "pairs", "suggestion", "order"]
SLIDER_SPAN = 10_000  # wider ranges without a `slider_max` get a number box
ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r"))
ACRONYMS = MappingProxyType({"gpu": "GPU", "kv": "KV", "kqv": "KQV", "cpu": "CPU", "xtc": "XTC", "dry": "DRY", "eos": "EOS", "bos": "BOS", "rope": "RoPE", "lora": "LoRA", "numa": "NUMA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", "json": "JSON"})  # fmt: skip
HOW_TO_WRITE = MappingProxyType({
    "lines": " One on each line; \\n is a newline.",
    "numbers": " Separate with commas.",
    "pairs": " One “id: value” on each line.",
})


@dataclass(frozen=True)
class FormField:
    """One field of a model as the page shows it."""

    name: str
    kind: Kind
    label: str
    info: str
    default: Any
    group: str = ""
    minimum: float | None = None
    maximum: float | None = None
    slider_max: float | None = None
    step: float = 1.0
    whole: bool = False  # whole numbers only
    choices: tuple[Any, ...] = ()
    rows: int = 1  # of a text box, at least

    def component(self, value: Any) -> Component:
        """The component, made in the layout that is open now."""
        import gradio as gr

        words: dict[str, Any] = {"label": self.label, "info": self.info + HOW_TO_WRITE.get(self.kind, ""), "interactive": True, "elem_classes": f"field-{self.name}"}
        shown = self.shown(value)
        if self.kind == "switch":
            return gr.Checkbox(value=shown, **words)
        if self.kind == "slider":
            return gr.Slider(minimum=self.minimum, maximum=self._slider_end(shown), value=shown, step=self.step, buttons=[], **words)
        if self.kind == "number":
            places = 0 if self.whole else None
            return gr.Number(value=shown, minimum=self.minimum, maximum=self.maximum, precision=places, step=self.step, **words)
        if self.kind in ("choice", "choices", "suggestion"):
            return self._dropdown(shown, words)
        if self.kind == "order":
            from modules.ui.views.sampler_order import SamplerOrder

            return SamplerOrder(shown, label=self.label, info=self.info, elem_classes=words["elem_classes"])
        words["elem_classes"] = [words["elem_classes"], f"typed-{self.kind}"]  # how the browser reads it where there is no time to ask here
        rows = max(self.rows, 3 if self.kind in ("lines", "pairs") else 1)
        return gr.Textbox(value=shown, lines=rows, max_lines=max(8, 3 * rows) if rows > 1 else 1, **words)

    def _dropdown(self, shown: Any, words: dict[str, Any]) -> Component:
        import gradio as gr

        if self.kind == "suggestion":
            return gr.Dropdown(choices=_suggested(()), value=shown, allow_custom_value=True, **words)
        return gr.Dropdown(choices=[(str(c), c) for c in self.choices], value=shown, multiselect=self.kind == "choices", **words)

    def update(self, value: Any, end: float | None = None, suggestions: Sequence[str] | None = None) -> Any:
        """What a handler returns to show `value`; a slider ends at `end` if that is given, and grows for a value beyond its usual end."""
        import gradio as gr

        if self.kind == "suggestion" and suggestions is not None:
            return gr.update(value=self.shown(value), choices=_suggested(suggestions))
        if self.kind == "slider":
            return gr.update(value=self.shown(value), maximum=self._slider_end(value) if end is None else max(end, float(value or 0)))
        return self.shown(value)

    def _slider_end(self, value: Any) -> float:
        end = self.slider_max if self.slider_max is not None else self.maximum
        assert end is not None, "a slider has an end"
        return max(end, float(value or 0))

    def shown(self, value: Any) -> Any:
        """A value of the model as the component holds it."""
        writers: dict[str, Callable[[], Any]] = {
            "choices": lambda: list(value),
            "order": lambda: json.dumps({"label": self.label, "info": self.info, "usual": list(self.default), "order": list(value)}),
            "lines": lambda: "\n".join(escaped(text) for text in value),
            "numbers": lambda: ", ".join(str(number) for number in value),
            "pairs": lambda: "\n".join(f"{key}: {item}" for key, item in value.items()),
            "optional": lambda: "" if value is None else str(value),
        }
        return writers[self.kind]() if self.kind in writers else value

    def read(self, shown: Any) -> Any:
        """What the person entered as a value that pydantic can check."""
        readers: dict[str, Callable[[], Any]] = {
            "lines": lambda: tuple(unescaped(line) for line in (shown or "").split("\n") if line),
            "numbers": lambda: tuple(part.strip() for part in (shown or "").replace("\n", ",").split(",") if part.strip()),
            "pairs": lambda: self._pairs(shown or ""),
            "choices": lambda: tuple(shown or ()),
            "order": lambda: self._order(shown),
            "suggestion": lambda: str(shown or "").strip(),
            "optional": lambda: str(shown).strip() or None if shown is not None else None,
        }
        if self.kind in readers:
            usual = {"choices": list | tuple, "lines": str, "numbers": str, "pairs": str}.get(self.kind, object)
            is_usual = shown is None or isinstance(shown, usual)
            return readers[self.kind]() if is_usual else shown  # who calls a handler by hand sends anything: the rules of the field refuse it
        if shown is None:
            return self.default  # an emptied number box
        is_number = isinstance(shown, int | float) and math.isfinite(shown)
        return int(shown) if self.whole and is_number and self.kind in ("slider", "number") else shown

    def _order(self, shown: Any) -> tuple[str, ...]:
        try:
            return tuple(json.loads(shown)["order"])
        except (TypeError, ValueError, KeyError) as error:
            raise InvalidRequest(f"{self.label} could not be read; reload the page.", field=self.name) from error

    def _pairs(self, text: str) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for line in filter(str.strip, text.split("\n")):
            key, colon, value = line.partition(":")
            if not colon:
                raise InvalidRequest(f"{self.label}: “{line.strip()[:40]}” has no colon; write “id: value” on each line.", field=self.name)
            pairs[key.strip()] = value.strip()
        return pairs


class Form:
    """The fields of one model. `build` makes the components; `read` and `updates` go between them and the model."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model
        self.fields = fields_of(model)
        self.components: list[Component] = []

    def build(self, values: BaseModel | None = None, *, open_groups: Sequence[str] = (), first: Sequence[str] = (), beside: Mapping[str, Callable[[], None]] | None = None) -> list[Component]:
        """Make one component for each field, grouped as the model says, in the layout that is open now.

        `first` are above the groups; `beside` makes more below a field.
        """
        import gradio as gr

        values = values or self.model()
        by_name = {field.name: field for field in self.fields}
        made: dict[str, Component] = {name: by_name[name].component(getattr(values, name)) for name in first}
        for group in dict.fromkeys(field.group for field in self.fields):
            members = [field for field in self.fields if field.group == group and field.name not in first]
            if not group:
                made.update({field.name: field.component(getattr(values, field.name)) for field in members})
                continue
            with gr.Accordion(group, open=group in open_groups, elem_classes="settings-group"):
                for field in members:
                    made[field.name] = field.component(getattr(values, field.name))
                    (beside or {}).get(field.name, lambda: None)()
        self.components = [made[field.name] for field in self.fields]
        return self.components

    def component(self, name: str) -> Component:
        """The component of a field."""
        return self.components[[field.name for field in self.fields].index(name)]

    def read(self, shown: Sequence[Any]) -> BaseModel:
        """The model that the components show.

        Raises:
            InvalidRequest: naming the field and its rule.
        """
        values = {field.name: field.read(value) for field, value in zip(self.fields, shown, strict=True)}
        return checked(self.model, values)

    def only(self, name: str, values: BaseModel) -> list[Any]:
        """One update for each component, of which only that of one field changes anything.

        Raises:
            InvalidRequest: there is no such field.
        """
        import gradio as gr

        if all(field.name != name for field in self.fields):
            raise InvalidRequest(f"There is no parameter “{name[:40]}”.", field="name")
        return [field.update(getattr(values, name)) if field.name == name else gr.skip() for field in self.fields]

    def updates(
        self, values: BaseModel, ends: Mapping[str, float] | None = None, suggestions: Mapping[str, Sequence[str]] | None = None
    ) -> list[Any]:
        """One update for each component, so that the form shows `values`; sliders named in `ends` end there, fields in `suggestions` offer those."""
        ends, suggestions = ends or {}, suggestions or {}
        return [field.update(getattr(values, field.name), ends.get(field.name), suggestions.get(field.name)) for field in self.fields]


def checked(model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """A model made of values, or `InvalidRequest` that names the first wrong field."""
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        rule = first["msg"].removeprefix("Value error, ")
        if not name:  # a rule about several fields, which names them itself
            raise InvalidRequest(f"{rule[:1].upper()}{rule[1:]}.") from error
        rule = problem_words(first)
        raise InvalidRequest(f"{label_of(name)}: {rule[:1].lower()}{rule[1:]}.", field=name) from error


def fields_of(model: type[BaseModel]) -> tuple[FormField, ...]:
    """The fields of a model that the page shows, in order.

    Raises:
        TypeError: a field whose type has no component; hide it or teach `_kind`.
    """
    return tuple(_field(name, info) for name, info in model.model_fields.items() if not _hints(info).get("hidden"))


def _hints(info: FieldInfo) -> dict[str, Any]:
    return dict(info.json_schema_extra) if isinstance(info.json_schema_extra, dict) else {}


def _field(name: str, info: FieldInfo) -> FormField:
    hints = _hints(info)
    whole = info.annotation is int
    minimum, maximum, step = _bounds(info, whole, hints.get("step"))
    kind, choices = _kind(name, info.annotation, (minimum, hints.get("slider_max", maximum)), "slider_max" in hints)
    if kind == "text" and hints.get("suggested"):
        kind = "suggestion"
    if kind == "choices" and hints.get("ordered"):
        kind = "order"
    return FormField(
        name=name, kind=kind, label=label_of(name), info=info.description or "", default=info.get_default(call_default_factory=True),
        group=str(hints.get("group", "")), minimum=minimum, maximum=maximum, slider_max=hints.get("slider_max"), step=step, whole=whole,
        choices=choices, rows=int(hints.get("rows", 1)),
    )  # fmt: skip


def _bounds(info: FieldInfo, whole: bool, step: float | None) -> tuple[float | None, float | None, float]:
    found: dict[str, float] = {}
    for rule in info.metadata:
        found.update({word: getattr(rule, word) for word in ("ge", "gt", "le", "lt") if hasattr(rule, word)})
    if step is None:
        smallest = found.get("ge", 0)
        step = 1.0 if whole else 0.001 if 0 < smallest < 0.01 else 0.01
    minimum = found["gt"] + step if "gt" in found else found.get("ge")
    maximum = found["lt"] - step if "lt" in found else found.get("le")
    return minimum, maximum, step


def _kind(name: str, annotation: Any, span: tuple[float | None, float | None], wants_slider: bool) -> tuple[Kind, tuple[Any, ...]]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "choice", arguments
    if origin in (typing.Union, types.UnionType) and type(None) in arguments and set(arguments) <= {int, float, str, type(None)}:
        return "optional", ()
    if origin is tuple and typing.get_origin(arguments[0]) is Literal:
        return "choices", typing.get_args(arguments[0])
    simple: dict[Any, Kind] = {bool: "switch", str: "text", (tuple, str): "lines", (tuple, int): "numbers", (tuple, float): "numbers", (dict, int): "pairs"}
    if annotation in (int, float):
        low, high = span
        bounded = low is not None and high is not None
        return ("slider" if bounded and (wants_slider or high - low <= SLIDER_SPAN) else "number"), ()  # type: ignore[operator]
    key = (origin, arguments[0]) if origin in (tuple, dict) else annotation
    if key not in simple:
        raise TypeError(f"the field {name} of type {annotation} has no component: hide it or teach form.py")
    return simple[key], ()


def _suggested(values: Sequence[str]) -> list[tuple[str, str]]:
    """Choices of a field that may also be left empty or hold something else."""
    return [("none", ""), *((value, value) for value in values)]


def label_of(name: str) -> str:
    """`repetition_penalty` as people read it."""
    words = " ".join(ACRONYMS.get(word, word) for word in name.split("_") if word).replace("LoRA plus", "LoRA+")
    return words if name.partition("_")[0] in ACRONYMS else words[:1].upper() + words[1:]


def escaped(text: str) -> str:
    """A string on one line, newlines and tabs written out."""
    for character, written in ESCAPES:
        text = text.replace(character, written)
    return text


def unescaped(text: str) -> str:
    """The string that `escaped` wrote; an unknown escape stays as typed."""
    parts = text.split("\\\\")
    for character, written in ESCAPES[1:]:
        parts = [part.replace(written, character) for part in parts]
    return "\\".join(parts)
