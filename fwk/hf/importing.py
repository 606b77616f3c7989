"""Write a BERT or ELECTRA folder of `transformers` as a run's folder with a checkpoint of update 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.config.resolve import build, from_mapping
from fwk.config.run_config import RunConfig
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data.tokenizers import Tokenizer
from fwk.engine.fitting import build_fitting
from fwk.engine.module import ObjectiveModule
from fwk.engine.saving.state import model_tensors, write_weights
from fwk.engine.saving.tensor_file import SavedTensors
from fwk.errors import ConfigError, DataError
from fwk.files import user_path
from fwk.files.kinds import COPY
from fwk.files.outputs import AtomicFolder
from fwk.hf.families import (
    BERT,
    MASKED_LM,
    Architecture,
    bert_options,
    from_transformers,
    has_pooler,
    require_head_eps,
    weight_names,
)
from fwk.hf.folder import SourceFolder, read_folder
from fwk.hf.task_heads import ImportedTask, TaskHead, imported_task
from fwk.models.bert import Bert
from fwk.nn.finite import names_not_finite

# weights that no objective reads, or that are made anew for each task
LEFT_BEHIND = ("pooler.", "cls.seq_relationship.", "classifier.", "position_ids", "token_type_ids")


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    class_name: str  # of transformers
    by: str  # the criterion that has the head, or 'encoder'
    left_behind: list[str]  # names of weights that were not imported
    untrained: tuple[str, ...] = ()  # criteria whose head is new


def import_folder(
    source: str | Path, run: str | Path, overwrite: bool = False, texts: Sequence[str] = ()
) -> Imported:
    """Write a run's folder that `fwk.load`, fwk-score, fwk-evaluate and fwk-export read.

    texts: the names of the texts that a head for a task reads, in order; none for the usual ones. Raises DataError and
    ConfigError, which name what does not fit.
    """
    source, run = user_path(source), user_path(run)
    replacement = AtomicFolder(run, overwrite, COPY, (source,))
    read = read_folder(source)
    options = _options(read)
    task = None
    if read.head is not None:
        assert read.architecture.role is not None
        task = imported_task(read.architecture.role, read.head, texts)
    elif texts:
        raise ConfigError(
            "--texts", f"a {read.architecture.class_name} has no head that reads labelled texts"
        )
    load_plugins()
    with replacement as folder:
        return _write(read, options, task, folder, run)


@dataclass(frozen=True)
class ReadModel:
    """An encoder, and perhaps a head, of a folder of `transformers`, under the names of fwk."""

    class_name: str  # of transformers
    options: PlainDict  # of the model `bert`
    role: str | None  # of the head
    tensors: dict[str, Tensor]  # under 'encoder.' and 'head.'
    head: TaskHead | None  # for a task
    left_behind: list[str]  # names of weights that have no counterpart
    tokenizer: Tokenizer


def read_model(path: Path) -> ReadModel:
    """Return what a folder holds. Raises DataError and ConfigError, which name what does not fit."""
    read = read_folder(path)
    architecture = read.architecture
    options = _options(read)
    if architecture.role == MASKED_LM:
        _complete_output(architecture, read.tensors)
        require_head_eps(options["norm_eps"])
    names = weight_names(build(Bert, options), architecture, options["pooler"], read.has_dense)
    tensors = from_transformers(read.tensors, names)
    if missing := sorted(names.keys() - tensors.keys()):
        lacking = ", ".join(" ".join(names[name]) for name in missing[:4])
        raise DataError(
            f"{path}: the weights lack {lacking}, which a {architecture.class_name} has"
        )
    if bad := names_not_finite(tensors):
        raise DataError(f"{path}: {', '.join(bad[:3])} is not finite")
    left_behind = _left_behind(read.tensors, names.values(), architecture)
    return ReadModel(
        architecture.class_name,
        options,
        architecture.role,
        tensors,
        read.head,
        left_behind,
        read.tokenizer,
    )


def _write(
    source: SourceFolder,
    options: PlainMapping,
    read_by: ImportedTask | None,
    folder: Path,
    run: Path,
) -> Imported:
    """Write tokenizer, config and weights to `folder`, which will become `run`. read_by: the task of the head."""
    _write_assets(source, read_by, folder / "tokenizer")
    architecture, tied = source.architecture, True
    if architecture.role == MASKED_LM:
        tied = _complete_output(architecture, source.tensors)
        require_head_eps(options["norm_eps"])
    config = _run_config(architecture, options, tied, run, read_by)
    ((label, spec),) = config.criterion.items()
    head = f"criteria.{label}.{spec.component.cls.head_path}."

    names = weight_names(config.model.config, architecture, options["pooler"], source.has_dense)
    task = config.task.cls.without_data(config.task.config, config.seed, folder)
    imported = _under_module_names(from_transformers(source.tensors, names), head)

    def replaced(module: ObjectiveModule) -> dict[str, Tensor]:
        return _replaced(model_tensors(module), imported, architecture, head)

    saved = SavedTensors(source.path, imported)
    tensors = replaced(build_fitting(config, task, saved, replaced))
    left_behind = _left_behind(source.tensors, names.values(), architecture)

    untrained = [] if architecture.role else [label]
    write_weights(
        folder,
        tensors,
        config,
        architecture.class_name,
        fingerprint=source.tokenizer.fingerprint,
        untrained=untrained,
    )
    by = label if architecture.role else "encoder"
    return Imported(architecture.class_name, by, left_behind, tuple(untrained))


def _write_assets(source: SourceFolder, read_by: ImportedTask | None, folder: Path) -> None:
    """Write tokenizer and labels to RUN/tokenizer."""
    folder.mkdir()
    source.tokenizer.save(folder)
    if read_by is not None:
        read_by.assets(source.tokenizer.fingerprint).write(folder)


def _options(source: SourceFolder) -> PlainDict:
    """Return the options of `bert` for a folder."""
    architecture = source.architecture
    options = bert_options(source.config, architecture.family, str(source.path / "config.json"))
    pooler = architecture.role is not None and architecture.head.pooler
    return {**options, "pooler": pooler or has_pooler(source.tensors, architecture)}


def _complete_output(architecture: Architecture, tensors: dict[str, Tensor]) -> bool:
    """Add the output matrix and bias that are stored under another name; return whether the matrix is the embedding."""
    output = architecture.head.modules["output"]
    embedding = f"{architecture.prefix}embeddings.word_embeddings.weight"
    if embedding not in tensors:
        raise DataError(f"the weights lack {embedding}")
    if architecture.family == BERT:
        bias = tensors.pop("cls.predictions.bias", None)
        if bias is not None:
            tensors.setdefault(f"{output}.bias", bias)
    tensors.setdefault(f"{output}.weight", tensors[embedding])
    return tensors[f"{output}.weight"].equal(tensors[embedding])


def _run_config(
    architecture: Architecture,
    options: PlainMapping,
    tied: bool,
    run: Path,
    task: ImportedTask | None,
) -> RunConfig:
    """Return a config whose criterion has the architecture's head. task: of a head for a task."""
    if task is not None:
        return from_mapping(
            {
                "task": task.config(run, int(options["length"])),
                "model": {"name": "bert", **options},
                "criterion": {_criterion_with(task.role): task.head.options},
                "run": str(run),
            }
        )
    # an encoder alone gets a fresh head, because every run has an objective
    name = _criterion_with(architecture.role or MASKED_LM)
    views = {}
    if architecture.role not in (None, MASKED_LM):
        # noise without a network; to continue training, choose other noise
        noise = {"noiser": "bert_mask", "of": None, "mask": 0.0, "random": 1.0}
        cls: Any = registry.get("criterion", name).cls
        views = {cls.Config().view: noise}
    return from_mapping(
        {
            "task": {
                "name": "mlm",
                "length": max(int(options["length"]), 8),
                "tokenizer": str(run / "tokenizer"),
            },
            "model": {"name": "bert", **options},
            "criterion": {name: {} if tied else {"tied_output": False}},
            "views": views,
            "run": str(run),
        }
    )


def _criterion_with(role: str) -> str:
    """Return the name of a criterion whose head has this role: the role's own name, or the first one."""
    names = [entry.name for entry in registry.entries("criterion") if role in _roles(entry.name)]
    if not names:
        raise DataError(
            f"no installed criterion has a head of the kind '{role}'; install a plugin with one"
        )
    return role if role in names else sorted(names)[0]


def _roles(name: str) -> tuple[str, ...]:
    cls: Any = registry.get("criterion", name).cls
    return cls.roles


def _under_module_names(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return the tensors under the names that they have in a run's module. head: what those of the head begin with."""
    prefixes = {"encoder": "networks.main.", "head": head}
    renamed = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        renamed[prefixes[part] + rest] = tensor
    return renamed


def _replaced(
    fresh: Mapping[str, Tensor],
    imported: Mapping[str, Tensor],
    architecture: Architecture,
    head: str,
) -> dict[str, Tensor]:
    """Return `fresh` with the weights of encoder and head replaced by imported ones.

    Raises DataError for weights that are missing or have another shape.
    """
    parts: tuple[str, ...] = ("networks.main.",)
    if architecture.role is not None:
        parts += (head,)
    tensors = dict(fresh)
    names = [name for name in fresh if name.startswith(parts)]
    missing = sorted(name for name in names if name not in imported)
    if missing:
        raise DataError(
            f"the weights lack {', '.join(missing[:4])} (fwk's names), which a {architecture.class_name} has"
        )
    for name in names:
        if fresh[name].shape != imported[name].shape:
            raise DataError(
                f"the weight {name} is {list(imported[name].shape)}, but its configuration says "
                f"{list(fresh[name].shape)}"
            )
        tensors[name] = imported[name].to(fresh[name].dtype)
    return tensors


def _left_behind(
    tensors: Mapping[str, Tensor], names: Iterable[tuple[str, ...]], architecture: Architecture
) -> list[str]:
    """Return the weights that are not imported. Raises DataError for those that the architecture does not have."""
    known = {name for group in names for name in group}
    rest = sorted(name for name in tensors if name not in known)
    unknown = [name for name in rest if not any(part in name for part in LEFT_BEHIND)]
    if unknown:
        raise DataError(
            f"a {architecture.class_name} does not have the weights {', '.join(unknown[:4])}"
        )
    return [name for name in rest if not name.endswith("_ids")]
