"""YAML in and out: files with the line of every value, `key=value` from the command line, and YAML with comments.

PyYAML parses the text into nodes, which know their lines. Scalars are then read as OmegaConf reads them: 1e-4 is a
number; times, octals and sexagesimals stay text. No tag constructs anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from fwk.config.paths import KeyPath, dotted
from fwk.contracts.options import Plain
from fwk.errors import ConfigError, did_you_mean

LARGEST = 1_000_000  # bytes of a config file
_MOST_NODES = 100_000  # values of a config file; an alias counts each time it is used
_DEEPEST = 60  # levels of nesting
_LONGEST_SIMPLE_KEY = (
    1000  # characters; YAML finds the colon of a key within 1024, or needs '? ' before the key
)
_PLAIN_TAGS = (
    None,
    "!",
    "tag:yaml.org,2002:map",
    "tag:yaml.org,2002:seq",
    "tag:yaml.org,2002:str",
)

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
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_/.+-][\w /.+@%=~()-]*")


@dataclass(frozen=True)
class Layer:
    """Values of one origin: a file, a flag, an override, or a mapping from Python."""

    values: Mapping[str, Plain]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)  # of a file
    name: str = ""  # what errors call the origin
    raw: str | None = None  # the text that an override was typed as
    is_file: bool = False  # the values were read from a file, which may have come from elsewhere

    def where(self, path: KeyPath) -> str:
        """Return the origin of a value, with the line of the nearest key that has one."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name

    def without(self, key: str) -> Layer:
        """Return the layer without one of its top-level keys."""
        values = {name: value for name, value in self.values.items() if name != key}
        return replace(self, values=values)


@dataclass(frozen=True)
class Override:
    """One value for one key."""

    path: KeyPath
    value: Plain
    typed: str | None = None  # the value as it was typed on the command line
    origin: str = "given from Python"


def scalar(text: str) -> Plain:
    """Return a plain scalar as YAML 1.1 reads it, but 1e-4 is a number and 010, 1:30 and 2024-01-01 are text."""
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
    """Return the values of a config file.

    Raises ConfigError naming file and line where it is missing, not text, not YAML or not a mapping.
    """
    shown = str(path)
    data = _read_bytes(Path(path), shown)
    if len(data) > LARGEST:
        raise ConfigError(
            "--config", f"'{shown}' is larger than {LARGEST} bytes, so it is not a config file"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            "--config", f"{shown}:{line} is not UTF-8 text (byte {data[error.start]:#04x})"
        ) from None
    return replace(parse(text, shown), is_file=True)


def _read_bytes(path: Path, shown: str) -> bytes:
    """Return at most LARGEST + 1 bytes of a file. Raises ConfigError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except FileNotFoundError:
        siblings = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(
            "--config", f"there is no file '{shown}'{did_you_mean(shown, siblings, 0)}"
        ) from None
    except OSError as error:
        raise ConfigError("--config", f"cannot read '{shown}': {error.strerror}") from None
    except ValueError as error:  # a NUL byte, or a lone surrogate
        raise ConfigError("--config", f"{shown!r} is not a possible file name: {error}") from None


def parse(text: str, name: str) -> Layer:
    """Return the values of a config file's text. Raises ConfigError naming `name` and the line."""
    reader = _NodeReader(name)
    values = reader.read(text)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        content = "a list" if isinstance(values, list) else "a single value"
        raise ConfigError("", f"{name}:1: expected 'key: value' lines at the top, got {content}")
    return Layer(values, reader.lines, name)


def parse_override(text: str) -> Override:
    """Return the override `key.path=value`. Raises ConfigError where the text is none."""
    key, equals, value = text.partition("=")
    key = key.strip()
    path = tuple(key.split("."))
    if not equals or not all(path):
        advice = (
            f"; a config file is given by --config {text}"
            if text.endswith((".yaml", ".yml"))
            else ""
        )
        raise ConfigError("", f"cannot parse '{text}'; expected key.path=value{advice}")

    origin = " ".join(text.split())
    origin = origin if len(origin) <= 80 else origin[:77] + "..."
    if value[:1] in ("[", "{", "'", '"'):
        return Override(path, _NodeReader(origin, key).read(value), None, origin)
    return Override(path, "" if value == "" else scalar(value), value, origin)


class _Composer(
    yaml.reader.Reader,
    yaml.scanner.Scanner,
    yaml.parser.Parser,
    yaml.composer.Composer,
    yaml.resolver.BaseResolver,
):
    """Text to nodes; scalars are resolved by `scalar`, and nothing is constructed."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.resolver.BaseResolver.__init__(self)


class _NodeReader:
    """Values of a YAML text, and the line of every path.

    name: what errors call the text. key: the key of an override, whose errors have no line.
    """

    def __init__(self, name: str, key: str = "") -> None:
        self.lines: dict[KeyPath, int] = {}
        self._name = name
        self._key = key
        self._count = 0

    def read(self, text: str) -> Plain:
        """Return the value of a text. Raises ConfigError."""
        node = self._compose(text)
        if node is None:
            return None
        value = self._value(node, (), ())
        self.lines.pop((), None)
        return value

    def _error(self, mark: yaml.Mark | None, message: str) -> ConfigError:
        line = "" if self._key or mark is None else f":{mark.line + 1}"
        return ConfigError(self._key, f"{self._name}{line}: {message}")

    def _compose(self, text: str) -> yaml.Node | None:
        """Return the root node of a text. Raises ConfigError where it is not YAML."""
        try:
            return _Composer(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._error(mark, f"not valid YAML: {_explained(error.problem)}") from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") if isinstance(error.position, int) else 0
            raise ConfigError(
                self._key,
                f"{self._name}:{line + 1}: a character that is not text (#x{error.character:04x})",
            ) from None
        except (yaml.YAMLError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise self._error(None, f"not valid YAML: {reason}") from None

    def _value(self, node: yaml.Node, path: KeyPath, inside: tuple[int, ...]) -> Plain:
        """Return a node's value and record its line. inside: ids of the nodes around it."""
        self._count += 1
        if self._count > _MOST_NODES or len(inside) > _DEEPEST or id(node) in inside:
            raise self._error(
                node.start_mark, "too many, too deep or circular values for a config file"
            )
        self.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag not in _PLAIN_TAGS:
            raise self._error(node.start_mark, f"the tag '{node.tag}' is not allowed in a config")

        inside = (*inside, id(node))
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value) if node.style is None and node.tag != "!" else node.value
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(item, (*path, str(number)), inside)
                for number, item in enumerate(node.value)
            ]
        return self._mapping(node, path, inside)

    def _mapping(self, node: yaml.Node, path: KeyPath, inside: tuple[int, ...]) -> dict[str, Plain]:
        values: dict[str, Plain] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node.start_mark, "a key must be plain text")
            word = key_node.value
            if word == "<<" and key_node.style is None:
                values = {**self._merge_keys(value_node, path, inside), **values}
                continue

            line = key_node.start_mark.line + 1
            if word in first_lines:
                raise self._error(
                    key_node.start_mark,
                    f"the key '{word}' is given a second time (first in line {first_lines[word]})",
                )
            first_lines[word] = line
            inner = (*path, word)
            self.lines[inner] = line
            values[word] = self._value(value_node, inner, inside)
        return values

    def _merge_keys(
        self, node: yaml.Node, path: KeyPath, inside: tuple[int, ...]
    ) -> dict[str, Plain]:
        """Return the values of a YAML merge key, `<<: *base`; of several mappings the first one wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values: dict[str, Plain] = {}
        for source in reversed(sources):
            mapping = self._value(source, (*path, "<<"), inside)
            if not isinstance(mapping, dict):
                raise self._error(node.start_mark, "'<<' merges mappings only")
            values = {**values, **mapping}
        return values


def _explained(problem: str | None) -> str:
    """Return PyYAML's description of a problem, with the remedy for common ones."""
    problem = problem or "not YAML"
    if "'\\t'" in problem:
        return "a tab where YAML needs spaces"
    if "could not find expected ':'" in problem or "mapping values are not allowed" in problem:
        problem += (
            "; expected 'key: value', with a space after the colon, "
            "and text that holds ': ' in quotes"
        )
    if "but found '<scalar>'" in problem:
        problem += '; text that begins with a bracket, as in "{text} was [MASK]", stands in quotes'
    return " ".join(problem.split())


# ---- writing ----


def dump(values: Mapping[str, Plain], origins: Mapping[str, str] | None = None) -> str:
    """Return block YAML, one value per line; with `origins` (dotted key -> text) a comment ends each line."""
    rows = _rows(values, (), origins or {})
    if not origins:
        return "".join(f"{text}\n" for text, _ in rows)
    width = min(max((len(text) for text, note in rows if note), default=0), 60)
    return "".join(f"{text:<{width}}  # {note}\n" if note else f"{text}\n" for text, note in rows)


def _rows(
    values: Mapping[str, Plain], path: KeyPath, origins: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return the lines of a mapping, each with its comment."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        indent = "  " * len(path)
        head = f"{indent}{_key(key, indent)}"
        inner = (*path, key)
        if isinstance(value, Mapping) and value:
            rows.append((head, ""))
            rows += _rows(value, inner, origins)
        else:
            note = " ".join(origins.get(dotted(inner), "").split())
            rows.append((f"{head} {flow(value)}", note))
    return rows


def flow(value: Plain) -> str:
    """Return a value as flow YAML, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k, ' ')} {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).replace("inf", ".inf").replace("nan", ".nan")
    return str(value) if isinstance(value, int) else _text(value)


def _key(key: str, indent: str) -> str:
    """Return a key with its colon; a very long one in YAML's explicit form, its colon on the next line."""
    text = _text(key)
    return f"{text}:" if len(text) <= _LONGEST_SIMPLE_KEY else f"? {text}\n{indent}:"


def _text(text: str) -> str:
    """Return a string so that `scalar` reads it back as the same string; a literal ${ stays one."""
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
    if (
        _PLAIN_TEXT.fullmatch(text)
        and text == text.strip()
        and scalar(text) == text
        and not text.startswith("-")
    ):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    # YAML breaks lines at more characters than \n
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
