"""Train text encoders with new objectives: views, criteria, and a trainer that knows neither.

The public names below are what plugins import. They are looked up when first used, so `import fwk` is cheap.
"""

from __future__ import annotations

import os as _os
import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import Any

from fwk.version import __version__

_PLACES = {
    "register": "fwk.registry",
    "option": "fwk.schema",
    "hookimpl": "fwk.hookspecs",
    "Criterion": "fwk.criteria.base",
    "Noiser": "fwk.noisers.base",
    "LearnedNoiser": "fwk.noisers.base",
    "Encoder": "fwk.models.base",
    "Task": "fwk.tasks.base",
    "Source": "fwk.tasks.base",
    "Batch": "fwk.views",
    "View": "fwk.views",
    "Encoded": "fwk.views",
    "LossTerm": "fwk.views",
    "Output": "fwk.views",
    "Key": "fwk.keyed",
    "choose": "fwk.keyed",
    "exact_share": "fwk.keyed",
    "invert_cdf": "fwk.keyed",
    "BuildContext": "fwk.context",
    "Context": "fwk.context",
    "Vocabulary": "fwk.context",
    "Phase": "fwk.engine.phases",
}

__all__ = ["__version__", "load", "train", "registry", *_PLACES]

if _os.environ.get(
    "FWK_USER_DIRS"
):  # a worker or a spawned rank: user code must be importable before anything asks
    from fwk.user_code import install as _install

    _install()


def train(config: Any = None, **options: Any) -> Any:
    """Train as `fwk-train` does and return the finished run.

    config: a path to a YAML file, several of them, a mapping, a `RunConfig`, or nothing. options: values by dotted key
    (`**{"optimizer.lr": 1e-4}`), or the command's flags (`criterion="masked_lm"`, `run="runs/a"`, `user_dirs=[...]`);
    `overwrite=True` and `allow_broken_plugins=True` are the flags of the same names. Raises what the command reports.
    """
    from fwk.config import from_python

    start = {name: options.pop(name, False) for name in ("overwrite", "allow_broken_plugins")}
    resolved = from_python(config, options, allow_broken=start["allow_broken_plugins"])
    return _import_module("fwk.engine.api").run(resolved, **start)


def load(path: Any, **options: Any) -> Any:
    """A checkpoint or run folder -> its model, tokenizer and config."""
    return _import_module("fwk.engine.api").load(path, **options)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fwk' has no attribute '{name}'")
    value = getattr(_import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(_ModuleType):
    """`fwk.registry` is the registry of names; importing the module of the same name must not hide it."""

    _asked = False

    @property
    def registry(self) -> Any:
        """Every registered name, those of installed plugins included."""
        if not self._asked:
            _Package._asked = True  # before the plugins are looked at, which may ask again
            try:
                _import_module("fwk.plugins").discover()
            except BaseException:
                _Package._asked = False
                raise
        return _sys.modules["fwk.registry"].registry

    @registry.setter
    def registry(self, module: Any) -> None:
        pass


_sys.modules[__name__].__class__ = _Package
