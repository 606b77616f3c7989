"""Components and their options as text, for `--help` and `fwk-plugins show`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from fwk.cli.parsing import width
from fwk.components.registry import Entry
from fwk.config.yaml_text import flow
from fwk.contracts.options import FieldSpec, shown

INDENT = " " * 6  # of an option's documentation


def component_lines(entry: Entry, prefix: str) -> list[str]:
    """Return a component and its options; `prefix` stands before their names, as in `criterion.`."""
    plugin = "" if entry.plugin == "fwk" else f"  [{entry.plugin}]"
    title = f"{entry.kind} {entry.name}: {entry.summary or 'no description'}{plugin}"
    return [title, *(field_lines(entry.schema, prefix) or ["  (no options)"])]


def field_lines(fields: Iterable[FieldSpec], prefix: str = "") -> list[str]:
    """Return one paragraph per option: key, type and default, then its documentation."""
    lines = []
    for field in fields:
        default = "required" if field.required else f"default {_default(field)}"
        lines.append(f"  {prefix}{field.name}  ({_type(field)}; {default})")
        lines += textwrap.wrap(
            field.doc or "(no documentation)",
            width() - len(INDENT),
            initial_indent=INDENT,
            subsequent_indent=INDENT,
        )
    return lines


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return a paragraph in lines as wide as the terminal, all but the first indented."""
    return textwrap.wrap(text, width(), subsequent_indent=indent, break_on_hyphens=False)


def _default(field: FieldSpec) -> str:
    value = field.default
    if isinstance(value, (list, dict)):
        return flow(value)
    return value if isinstance(value, str) and value else shown(value)


def _type(field: FieldSpec) -> str:
    """Return the values that an option takes: its type or choices, and their range."""
    text = field.type.replace(", ...]", "]").replace("None", "null")
    if text.startswith("Literal["):
        text = text[8:].replace("]", "", 1).replace("'", "").replace(", ", " | ")
    if field.choices:
        text = " | ".join(map(str, field.choices))
    return text + _range(field)


def _range(field: FieldSpec) -> str:
    """Return the bounds of a number, as in ' from 0 to 1' or ' >= 0'."""
    text = ""
    if field.low is not None and field.high is not None:
        text = f" from {field.low:g} to {field.high:g}"
    elif field.low is not None:
        text = f" >= {field.low:g}"
    elif field.high is not None:
        text = f" <= {field.high:g}"
    if field.above is not None:
        text += f" > {field.above:g}"
    return text
