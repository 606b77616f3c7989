"""Checks of `${key.path}` interpolation, which OmegaConf resolves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fwk.contracts.options import shown
from fwk.errors import ConfigError

RESOLVERS = ("oc.select",)  # ${oc.select:key.path,default}; every other resolver is refused


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


_PLAIN = re.compile(r"[A-Za-z0-9_][\w-]*(\.[A-Za-z0-9_][\w-]*)*")


_START = re.compile(r"(?<!\\)(?:\\\\)*\$\{")


def _bodies(text: Any) -> Iterator[tuple[str, str]]:
    """The insides of every ${...} in a text, and the whole of it from there on."""
    if not isinstance(text, str):
        return
    for match in _START.finditer(text):
        end = text.find("}", match.end())
        yield (text[match.end() : end] if end >= 0 else ""), text[match.start() :]


def _targets(text: Any) -> list[str]:
    return [body.strip() for body, _ in _bodies(text) if ":" not in body]


def _check_interpolation(text: Any, key: str, at: str) -> None:
    """Only ${key.path} and the resolvers of the list; raises ConfigError before OmegaConf sees the text."""
    for body, rest in _bodies(text):
        body = body.strip()
        if not body or "${" in body:
            raise ConfigError(
                key, f"{shown(rest)} is not an interpolation; expected ${{key.path}}{at}"
            )
        if ":" in body:
            resolver = body.split(":")[0].strip()
            if resolver not in RESOLVERS:
                raise ConfigError(
                    key,
                    f"the resolver '{resolver}' is not allowed; a config may use ${{key.path}} and "
                    f"the resolver{'s' if len(RESOLVERS) > 1 else ''} {', '.join(RESOLVERS)}{at}",
                )
        elif not _PLAIN.fullmatch(body):
            raise ConfigError(
                key,
                f"'${{{body}}}' is not an interpolation; expected ${{key.path}}, a path from the top"
                f"{at}",
            )
    if isinstance(text, str) and "${" in text:
        try:
            OmegaConf.create({"text": text})
        except OmegaConfBaseException as error:
            raise ConfigError(
                key, f"{shown(text)} is not understood: {_first_line(error)}{at}"
            ) from None
