"""Interpolation of `${key.path}` in config values: what is allowed, and its resolution by OmegaConf."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fwk.config.paths import KeyPath, dotted, in_parentheses, leaves
from fwk.contracts.options import Plain, shown
from fwk.contracts.plain import PlainDict
from fwk.errors import ConfigError, did_you_mean

RESOLVERS = ("oc.select",)  # ${oc.select:key.path,default}; every other resolver is refused

MISSING = "???"  # OmegaConf's text for a value that must still be given
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][\w-]*(\.[A-Za-z0-9_][\w-]*)*")
_START = re.compile(r"(?<!\\)(?:\\\\)*\$\{")


def check_interpolation(text: object, key: str, at: str) -> None:
    """Raise ConfigError where a text holds anything but ${key.path} and the allowed resolvers.

    This comes before OmegaConf sees the text, so no resolver of its own ever runs. `at` ends the message.
    """
    if not isinstance(text, str):
        return
    for body, rest in _bodies(text):
        _check_body(body.strip(), rest, key, at)
    if "${" in text:
        try:
            OmegaConf.create({"text": text})
        except OmegaConfBaseException as error:
            raise ConfigError(
                key, f"cannot parse {shown(text)}: {_first_line(error)}{at}"
            ) from None


def _check_body(body: str, rest: str, key: str, at: str) -> None:
    if not body or "${" in body:
        raise ConfigError(key, f"{shown(rest)} is not an interpolation; expected ${{key.path}}{at}")
    if ":" in body:
        resolver = body.split(":")[0].strip()
        if resolver not in RESOLVERS:
            raise ConfigError(
                key,
                f"the resolver '{resolver}' is not allowed; a config may use ${{key.path}} and "
                f"the resolver{'s' if len(RESOLVERS) > 1 else ''} {', '.join(RESOLVERS)}{at}",
            )
    elif not _PLAIN_PATH.fullmatch(body):
        raise ConfigError(
            key,
            f"'${{{body}}}' is not an interpolation; expected ${{key.path}}, a path from the top{at}",
        )


def resolve_interpolations(
    tree: dict[str, Plain], where: Callable[[KeyPath], str]
) -> dict[str, Plain]:
    """Return the tree with every interpolation replaced by the value it names.

    Raises ConfigError for a value that is still '???', a target that does not exist, and a circle.
    """
    values = dict(leaves(tree))
    texts = [value for value in values.values() if isinstance(value, str)]
    if not any("${" in text or text == MISSING for text in texts):
        return tree

    known = {dotted(path[:end]) for path in values for end in range(1, len(path) + 1)}
    for path, value in values.items():
        _check_targets(path, value, known, in_parentheses(where(path)))

    node = OmegaConf.create(tree)
    for path, value in values.items():
        try:
            _walk(node, path)
        except (OmegaConfBaseException, RecursionError) as error:
            circular = isinstance(error, RecursionError) or "ecursive" in str(error)
            reason = "refers to itself" if circular else _first_line(error)
            raise ConfigError(
                dotted(path),
                f"interpolation {shown(value)}: {reason}{in_parentheses(where(path))}",
            ) from None
    return cast(PlainDict, OmegaConf.to_container(node, resolve=True))


def _check_targets(path: KeyPath, value: object, known: set[str], at: str) -> None:
    if value == MISSING:
        raise ConfigError(
            dotted(path), f"must be given ('{MISSING}' stands for a value still missing){at}"
        )
    if not isinstance(value, str):
        return
    for target in (body.strip() for body, _ in _bodies(value) if ":" not in body):
        if target not in known:
            raise ConfigError(
                dotted(path), f"${{{target}}} names no key{at}{did_you_mean(target, known, 0)}"
            )


def _walk(node: Any, path: KeyPath) -> None:
    """Ask OmegaConf for the value at a path, which resolves it or raises."""
    for key in path:
        node = node[int(key) if OmegaConf.is_list(node) else key]


def _bodies(text: str) -> Iterator[tuple[str, str]]:
    """Yield the inside of every ${...} in a text, and the text from there on."""
    for match in _START.finditer(text):
        end = text.find("}", match.end())
        yield (text[match.end() : end] if end >= 0 else ""), text[match.start() :]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
