"""YAML in and out: files with the line of every value, `key=value` from the command line, and YAML with comments.

The text is parsed by PyYAML into nodes, which know their lines; scalars are then read as OmegaConf reads them (1e-4 is
a number), with times, octals and sixties left as text. No tag constructs anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fwk.errors import ConfigError, did_you_mean

LARGEST = 1_000_000  # bytes of a config file
_NODES = 100_000  # values of a config file, aliases counted each time they stand for something

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?((\d[\d_]*)?\.\d+|\d[\d_]*\.?)([eE][-+]?\d+)?")
_INFINITE = {
    ".inf": float("inf"),
    "+.inf": float("inf"),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}
_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
    "null": None,
    "~": None,
    "": None,
}
_PLAIN = re.compile(r"[A-Za-z0-9_/.+-][\w /.+@%=~()-]*")


@dataclass(frozen=True)
class Layer:
    """Values of one origin. lines: path -> line number; raw: the text an override was typed as."""

    values: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    name: str = ""
    raw: str | None = None

    def where(self, path: tuple[str, ...]) -> str:
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name


@dataclass(frozen=True)
class PythonOverride:
    """An override that comes from Python and needs no parsing."""

    path: tuple[str, ...]
    value: Any


def scalar(text: str) -> Any:
    """A plain scalar as YAML 1.1 reads it, but 1e-4 is a number and 010, 1:30 and 2024-01-01 are text."""
    lower = text.lower()
    if lower in _WORDS and text in (lower, lower.upper(), lower.capitalize()):
        return _WORDS[lower]
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        return int(digits) if len(digits) < 400 else text
    if _FLOAT.fullmatch(text) and not re.fullmatch(r"[-+]?0\d+", text):
        return float(text.replace("_", ""))
    return _INFINITE.get(lower, text)


def read(path: str | Path) -> Layer:
    """A config file. Raises ConfigError naming file and line: missing, not text, not YAML, not a mapping."""
    path = Path(path)
    shown = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        around = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(
            "--config", f"there is no file '{shown}'{did_you_mean(shown, around, 0)}"
        ) from None
    except OSError as error:
        raise ConfigError("--config", f"cannot read '{shown}': {error.strerror}") from None
    except ValueError as error:  # a zero byte, or half a character
        raise ConfigError("--config", f"{shown!r} cannot be a file's name: {error}") from None
    if len(data) > LARGEST:
        raise ConfigError(
            "--config", f"'{shown}' is larger than {LARGEST} bytes, which is no config file"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            "--config", f"{shown}:{line} is not UTF-8 text (byte {data[error.start]:#04x})"
        ) from None
    return parse(text, shown)


def parse(text: str, name: str) -> Layer:
    """The YAML of a config file. Raises ConfigError naming `name` and the line."""
    lines: dict[tuple[str, ...], int] = {}
    values = _load(text, name, lines)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(
            "",
            f"{name}:1: expected 'key: value' lines at the top, got "
            f"{'a list' if isinstance(values, list) else 'a single value'}",
        )
    return Layer(values, lines, name)


def override(text: str | PythonOverride) -> tuple[tuple[str, ...], Any, str | None, str]:
    """`key.path=value` -> path, value, the value as typed, and what to call it in errors."""
    if isinstance(text, PythonOverride):
        return text.path, text.value, None, "given from Python"
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        hint = (
            f"; a config file is given by --config {text}"
            if text.endswith((".yaml", ".yml"))
            else ""
        )
        raise ConfigError("", f"'{text}' is not understood; expected key.path=value{hint}")
    told = " ".join(text.split())
    told = told if len(told) <= 80 else told[:77] + "..."
    if value[:1] in ("[", "{", "'", '"'):
        return tuple(key.split(".")), _load(value, told, {}, key), None, told
    return tuple(key.split(".")), ("" if value == "" else scalar(value)), value, told


class _Composer(
    yaml.reader.Reader,
    yaml.scanner.Scanner,
    yaml.parser.Parser,
    yaml.composer.Composer,
    yaml.resolver.BaseResolver,
):
    """Text -> nodes; scalars are resolved by `scalar`, nothing is constructed."""

    def __init__(self, text: str):
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.resolver.BaseResolver.__init__(self)


def _load(text: str, name: str, lines: dict[tuple[str, ...], int], key: str = "") -> Any:
    def wrong(mark: Any, message: str) -> ConfigError:
        return ConfigError(
            key,
            f"{name}: {message}" if key or mark is None else f"{name}:{mark.line + 1}: {message}",
        )

    try:
        node = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "not YAML"
        if "'\\t'" in problem:
            problem = "a tab stands where YAML wants spaces"
        elif (
            "could not find expected ':'" in problem or "mapping values are not allowed" in problem
        ):
            problem += "; expected 'key: value', with a space after the colon, and text that holds ': ' in quotes"
        raise wrong(mark, f"not valid YAML: {' '.join(problem.split())}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") if isinstance(error.position, int) else 0
        raise ConfigError(
            key, f"{name}:{line + 1}: a character that is not text (#x{error.character:04x})"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(key, f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        return None
    count = 0

    def value_of(node: yaml.Node, path: tuple[str, ...], inside: tuple[int, ...]) -> Any:
        nonlocal count
        count += 1
        if count > _NODES or len(inside) > 60 or id(node) in inside:
            raise wrong(node.start_mark, "too many, too deep or circular values for a config file")
        if path not in lines:
            lines[path] = node.start_mark.line + 1
        if node.tag not in (
            None,
            "!",
            "tag:yaml.org,2002:map",
            "tag:yaml.org,2002:seq",
            "tag:yaml.org,2002:str",
        ):
            raise wrong(node.start_mark, f"the tag '{node.tag}' is not allowed in a config")
        inside = (*inside, id(node))
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value) if node.style is None and node.tag != "!" else node.value
        if isinstance(node, yaml.SequenceNode):
            return [value_of(item, (*path, str(i)), inside) for i, item in enumerate(node.value)]
        made: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise wrong(key_node.start_mark, "a key must be plain text")
            word = key_node.value
            if word == "<<" and key_node.style is None:
                sources = (
                    value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                )
                for source in reversed(sources):
                    merged = value_of(source, (*path, "<<"), inside)
                    if not isinstance(merged, dict):
                        raise wrong(value_node.start_mark, "'<<' merges mappings only")
                    made = {**merged, **made}
                continue
            line = key_node.start_mark.line + 1
            if word in first:
                raise wrong(
                    key_node.start_mark,
                    f"the key '{word}' stands here a second time (first in line {first[word]})",
                )
            first[word] = line
            lines[(*path, word)] = line
            made[word] = value_of(value_node, (*path, word), inside)
        return made

    made = value_of(node, (), ())
    lines.pop((), None)
    return made


# ---- out ----


def dump(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> str:
    """Block YAML, one value per line; with `origins` (dotted key -> text) a comment ends each line."""
    rows: list[tuple[str, str]] = []
    _rows(values, 0, (), rows, origins or {})
    if not origins:
        return "".join(f"{text}\n" for text, _ in rows)
    width = min(max((len(text) for text, note in rows if note), default=0), 60)
    return "".join(f"{text:<{width}}  # {note}\n" if note else f"{text}\n" for text, note in rows)


def _rows(
    values: Mapping[str, Any],
    depth: int,
    path: tuple[str, ...],
    rows: list,
    origins: Mapping[str, str],
) -> None:
    for key, value in values.items():
        head = f"{'  ' * depth}{_text(key)}:"
        inner = (*path, key)
        note = origins.get(".".join(inner), "")
        if isinstance(value, Mapping) and value:
            rows.append((head, ""))
            _rows(value, depth + 1, inner, rows, origins)
        else:
            rows.append((f"{head} {flow(value)}", " ".join(note.split())))


def flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(k, True)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return repr(value).replace("inf", ".inf").replace("nan", ".nan")
    return str(value) if isinstance(value, int) else _text(value)


def _text(text: str, flow: bool = False) -> str:
    """A string so that `scalar` reads it back as the same string; a literal ${ stays one."""
    text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", text)
    if (
        _PLAIN.fullmatch(text)
        and text == text.strip()
        and scalar(text) == text
        and not text.startswith(("- ", "-"))
    ):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted
    )  # YAML breaks lines at more than \n
