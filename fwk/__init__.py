"""Train text encoders with new objectives: views, criteria, and a trainer that knows neither.

The public names below are what plugins import. They are looked up when first used, so `import fwk` is cheap.
"""

from __future__ import annotations

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from fwk.version import __version__

if TYPE_CHECKING:  # the same names for type checkers and editors, which do not run `__getattr__`
    from fwk.components.registry import register, registry
    from fwk.contracts.context import BuildContext, Context, Vocabulary
    from fwk.contracts.criterion import Criterion
    from fwk.contracts.encoder import Encoder
    from fwk.contracts.hooks import RunView, hookimpl
    from fwk.contracts.keyed import Key, choose, exact_share, invert_cdf
    from fwk.contracts.noiser import LearnedNoiser, Noiser
    from fwk.contracts.optimizer import OptimizerConfig, OptimizerFactory
    from fwk.contracts.options import option
    from fwk.contracts.phase import Phase
    from fwk.contracts.read import Read
    from fwk.contracts.schedule import Schedule, ScheduleConfig
    from fwk.contracts.sizes import SequenceShape, Transformer
    from fwk.contracts.task import Source, Task
    from fwk.contracts.views import Batch, Encoded, LossTerm, Output, View

_PLACES = {
    "register": "fwk.components.registry",
    "option": "fwk.contracts.options",
    "hookimpl": "fwk.contracts.hooks",
    "Criterion": "fwk.contracts.criterion",
    "Read": "fwk.contracts.read",
    "Noiser": "fwk.contracts.noiser",
    "LearnedNoiser": "fwk.contracts.noiser",
    "Encoder": "fwk.contracts.encoder",
    "Task": "fwk.contracts.task",
    "Source": "fwk.contracts.task",
    "OptimizerFactory": "fwk.contracts.optimizer",
    "OptimizerConfig": "fwk.contracts.optimizer",
    "Schedule": "fwk.contracts.schedule",
    "ScheduleConfig": "fwk.contracts.schedule",
    "Batch": "fwk.contracts.views",
    "View": "fwk.contracts.views",
    "Encoded": "fwk.contracts.views",
    "LossTerm": "fwk.contracts.views",
    "Output": "fwk.contracts.views",
    "Key": "fwk.contracts.keyed",
    "choose": "fwk.contracts.keyed",
    "exact_share": "fwk.contracts.keyed",
    "invert_cdf": "fwk.contracts.keyed",
    "BuildContext": "fwk.contracts.context",
    "Context": "fwk.contracts.context",
    "Vocabulary": "fwk.contracts.context",
    "Phase": "fwk.contracts.phase",
    "RunView": "fwk.contracts.hooks",
    "SequenceShape": "fwk.contracts.sizes",
    "Transformer": "fwk.contracts.sizes",
}

__all__ = ["__version__", "load", "train", "registry", *_PLACES]

if _os.environ.get(
    "FWK_USER_DIRS"
):  # a worker or a spawned rank: user code must be importable before anything asks
    from fwk.components.user_dirs import install as _install

    _install()


def train(config: Any = None, **options: Any) -> Any:
    """Train as `fwk-train` does and return the finished run.

    config: a path to a YAML file, several of them, a mapping, a `RunConfig`, or nothing. options: values by dotted key
    (`**{"optimizer.lr": 1e-4}`), or the command's flags (`criterion="masked_lm"`, `run="runs/a"`, `user_dirs=[...]`);
    `overwrite=True` and `allow_broken_plugins=True` are the flags of the same names. Raises what the command reports.
    """
    from fwk.config.resolve import from_python

    start = {name: options.pop(name, False) for name in ("overwrite", "allow_broken_plugins")}
    resolved = from_python(config, options, allow_broken=start["allow_broken_plugins"])
    return _import_module("fwk.runs.start").train(resolved, **start)


def load(path: Any, **options: Any) -> Any:
    """Return the model, tokenizer and config of a checkpoint or of a run folder."""
    return _import_module("fwk.runs.loaded").load(path, **options)


def __getattr__(name: str) -> Any:
    if name == "registry":  # every registered name, those of installed plugins included
        _import_module("fwk.components.discovery").discover()
        globals()[name] = _import_module("fwk.components.registry").registry
        return globals()[name]
    if name not in _PLACES:
        raise AttributeError(f"module 'fwk' has no attribute '{name}'")
    value = getattr(_import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
