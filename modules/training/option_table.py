"""The options of a run as tables of Markdown, for the documentation: one for each group, made from their declaration."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from modules.training.card_text import inline
from modules.training.options import TrainingOptions


def option_tables() -> str:
    """All groups with their options, in the order of the declaration."""
    groups: dict[str, list[str]] = {}
    for name, field in TrainingOptions.model_fields.items():
        extra = field.json_schema_extra
        group = str(extra["group"]) if isinstance(extra, dict) else ""
        rows = groups.setdefault(group, ["| option | default | may be | meaning |", "|---|---|---|---|"])
        rows.append(f"| `{name}` | {_shown(field.default)} | {_range(field)} | {inline(field.description or '')} |")
    return "\n\n".join(f"### {group}\n\n" + "\n".join(rows) for group, rows in groups.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | str):
        return inline(str(value)) if value else "none"
    return f"{value:g}"


def _range(field: FieldInfo) -> str:
    """The values that are taken."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "on, off"
    if get_origin(field.annotation) is tuple or field.annotation is str:
        return "names" if field.annotation is not str else "text"
    bounds = {name: getattr(rule, name) for rule in field.metadata for name in ("ge", "gt", "le", "lt") if getattr(rule, name, None) is not None}
    low = f"{bounds['ge']:,}" if "ge" in bounds else f"above {bounds['gt']:,}"
    return f"{low} to {bounds['le']:,}" if "le" in bounds else f"{low}, below {bounds['lt']:,}"
