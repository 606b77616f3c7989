"""Train text encoders with new objectives: views, criteria, and a trainer that knows neither.

    fwk.train("config.yaml")   train as the command `fwk-train` does
    fwk.load("runs/mine")      the model, tokenizer and config of a run or checkpoint
    fwk.registry               every registered component, those of installed plugins included

The other public names are what plugins import. All names are looked up when they are first used, so that `import fwk`
is cheap and does not import torch.
"""

from __future__ import annotations

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from fwk.components.working_directory import leave as _leave_working_directory
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
    from fwk.engine.loaded import Loaded
    from fwk.runs.start import Finished

# public name -> the module that defines it
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

_leave_working_directory()

if _os.environ.get("FWK_USER_DIRS"):
    # a data-loading worker or a spawned rank: user code must be importable before anything is unpickled
    from fwk.components.user_dirs import install as _install

    _install()


def train(config: Any = None, **options: Any) -> Finished:
    """Train as `fwk-train` does and return the finished run.

    config: a path to a YAML file, a mapping, a `RunConfig`, a list of these, or nothing. options: values by dotted key
    (`**{"optimizer.lr": 1e-4}`), or the command's flags (`criterion="masked_lm"`, `run="runs/a"`, `user_dirs=[...]`);
    `overwrite=True`, `trust=True` and `allow_broken_plugins=True` are the flags of the same names. Raises what the
    command reports.
    """
    from fwk.components.trust import trusting
    from fwk.config.resolve import from_python
    from fwk.data.main_guard import leave_if_script_is_imported

    leave_if_script_is_imported()
    overwrite = options.pop("overwrite", False)
    allow_broken = options.pop("allow_broken_plugins", False)
    with trusting(options.pop("trust", False) is True):
        resolved = from_python(config, options, allow_broken=allow_broken)
        if resolved.needs.runs:
            needs = _import_module("fwk.runs.needs")
            needs.train_needed(resolved, overwrite=overwrite, allow_broken_plugins=allow_broken)
        start = _import_module("fwk.runs.start")
        return start.train(resolved, overwrite=overwrite, allow_broken_plugins=allow_broken)


def load(path: Any, **options: Any) -> Loaded:
    """Return the model, tokenizer and config of a checkpoint or of a run folder, on the CPU.

    options: `user_dirs=(...)`; `checkpoint="best"` for a run's best checkpoint, not its newest; `average=True`
    for the moving average of the weights, `average=False` for the weights themselves, by default those that the run
    was evaluated with; `trust=True` to import the code that the run names under user_dirs, if you have not run it
    before. Raises CheckpointError for a path that holds neither.
    """
    from fwk.components.trust import trusting

    with trusting(options.pop("trust", False) is True):
        return _import_module("fwk.runs.loaded").load(path, **options)


def __getattr__(name: str) -> Any:
    """Look up a public name when it is first used, and keep it as an attribute of the package."""
    if name == "registry":
        _import_module("fwk.components.discovery").discover()  # names of installed plugins
        value = _import_module("fwk.components.registry").registry
    elif name in _PLACES:
        value = getattr(_import_module(_PLACES[name]), name)
    else:
        raise AttributeError(f"module 'fwk' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
