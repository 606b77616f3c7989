"""Write a checkpoint as a folder that `transformers` loads, and compare the two before the folder is in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fwk.contracts.plain import PlainDict
from fwk.engine.loaded import Loaded
from fwk.errors import ConfigError, DataError, RunError, did_you_mean
from fwk.files import user_path
from fwk.files.kinds import EXPORT
from fwk.files.outputs import AtomicFolder
from fwk.hf import tokenizer as tokenizers
from fwk.hf.auto import as_bert, is_convertible, write_encoder
from fwk.hf.card import model_card
from fwk.hf.comparing import compare_outputs
from fwk.hf.families import (
    BERT,
    ELECTRA,
    MASKED_LM,
    REPLACED_TOKEN,
    Architecture,
    choose_architecture,
    exports_pooler,
    has_head,
    pooling_arguments,
    require_holdable,
    to_transformers,
    transformers_options,
    weight_names,
)
from fwk.hf.part import Part
from fwk.hf.sentence_vectors import Vectors, find_vectors, write_layout
from fwk.hf.sequence_heads import (
    head_options,
    head_tensors,
    require_held,
    sequence_form,
)
from fwk.hf.task_heads import TASK_ROLES
from fwk.models.hf import HuggingFace

ENCODER = "encoder"  # the value of --by for an encoder without a head
# positions of a model that neither learns positions nor has a task with a length
DEFAULT_LENGTH = 512
# tables of embeddings that fwk may lack and transformers has: name in fwk -> name there, its size
OPTIONAL_TABLES = {
    "position": ("position_embeddings", "max_position_embeddings"),
    "segment": ("token_type_embeddings", "type_vocab_size"),
}


@dataclass(frozen=True)
class Exported:
    """What was exported."""

    class_name: str  # of transformers
    by: str  # whose head or vectors, or 'encoder'
    differences: dict[str, float]  # largest, by quantity and precision
    pooling: str | None = None  # of sentence vectors


def find_part(loaded: Loaded, by: str | None) -> Part:
    """Return the part named `by`: a criterion's label, a view with a learned noiser, or 'encoder'.

    By default it is the only trained criterion whose head transformers has, else the encoder alone. Raises ConfigError
    where the name is unknown or missing, where the head was never trained, and where the families cannot hold the part.
    """
    module = loaded.module
    criteria = {label: item for label, item in module.criteria.items() if item.roles}
    noisers = {view: item for view, item in module.learned.items() if item.roles}
    others = {*loaded.untrained, *module.teachers.labels}
    trained = {label: item for label, item in criteria.items() if label not in others}
    by = _default_part(trained) if by is None else by
    loaded.require_trained(by, "--by", f"train it first, or export the encoder (--by {ENCODER})")
    if by == ENCODER:
        return Part(by, require_holdable(loaded.model.innermost(), None), None, None)
    if by in criteria:
        owner: Any = criteria[by]  # a module with `roles` and, since it has one, a head
        encoder: Any = module.networks[module.specs[module.encodes[by][0]].encoder]
    elif by in noisers:
        owner = noisers[by]
        encoder = owner.network
    else:
        known = [*criteria, *noisers, ENCODER]
        raise ConfigError(
            "--by", f"'{by}' has no head that transformers knows{did_you_mean(by, known)}"
        )
    role, head = owner.roles[0], owner.get_submodule(owner.head_path)
    outputs = owner.head_outputs()
    encoder = encoder.innermost()
    if isinstance(encoder, HuggingFace) and role in TASK_ROLES:
        encoder = as_bert(loaded, encoder)
    encoder = require_holdable(encoder, role)
    form = sequence_form(by, role, head, encoder, outputs)
    return Part(by, encoder, role, head, form, outputs)


def _default_part(criteria: PlainDict) -> str:
    if len(criteria) > 1:
        raise ConfigError(
            "--by",
            f"several criteria have a head; name one of {', '.join(criteria)}, or '{ENCODER}' for no head",
        )
    return next(iter(criteria), ENCODER)


def export(
    loaded: Loaded,
    folder: str | Path,
    by: str | None = None,
    family: str = "auto",
    overwrite: bool = False,
    sentence_transformers: bool = False,
    pooling: str | None = None,
) -> Exported:
    """Write config, weights (safetensors), tokenizer and a model card.

    sentence_transformers: also write what that library reads, with this pooling (None: that of the criterion that
    compares vectors, else the mean); it is always written for such a criterion.

    The folder is loaded with transformers and compared before it is put in place, so it is complete and correct or
    does not exist. Raises ConfigError for what the families cannot hold, RunError for outputs that differ.
    """
    transformers = _import_transformers()
    run = loaded.folder.parent.parent
    replacement = AtomicFolder(user_path(folder), overwrite, EXPORT, (run,))
    if loaded.tokenizer is None:
        raise ConfigError(
            "task",
            f"{loaded.folder} was trained on a task without text, for which transformers has no tokenizer",
        )
    vectors = find_vectors(loaded, by, sentence_transformers, pooling)
    encoder = loaded.model.innermost() if vectors is None else vectors.encoder
    if isinstance(encoder, HuggingFace) and not _has_task_head(loaded, encoder, by):
        return _export_as_it_is(loaded, encoder, by, replacement, vectors)
    if vectors is None:
        part = find_part(loaded, by)
    else:
        part = Part(vectors.by or ENCODER, require_holdable(encoder, None), None, None)
    architecture = _architecture_of(loaded, part, family)
    with replacement as target, _quiet(transformers):
        _write(transformers, loaded, part, architecture, target)
        tokenizers.compare(loaded.tokenizer, target)
        differences = compare_outputs(transformers, part, architecture, target)
        exported = Exported(architecture.class_name, part.by, differences)
        return _completed(exported, loaded, vectors, target, part.head is not None)


def _completed(
    exported: Exported, loaded: Loaded, vectors: Vectors | None, folder: Path, has_head: bool
) -> Exported:
    """Write what is beside weights and tokenizer, and return what was exported."""
    if vectors is not None:
        longest = vectors.encoder.longest or loaded.task.length() or DEFAULT_LENGTH
        longest = min(longest, loaded.task.length() or longest)
        found = write_layout(vectors, folder, longest, _import_transformers())
        differences = exported.differences | found
        exported = replace(exported, differences=differences, pooling=vectors.pooling)
    head = exported.by if has_head else None
    card = model_card(loaded, head, exported.class_name, exported.differences, exported.pooling)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return exported


def _has_task_head(loaded: Loaded, encoder: HuggingFace, by: str | None) -> bool:
    """Return whether a head for a task is exported with an encoder that is a model of transformers.

    by: as of `find_part`; by default it is, where the run has one trained head and the class can hold heads.
    """
    criteria: PlainDict = dict(loaded.module.criteria)
    others = {*loaded.untrained, *loaded.module.teachers.labels}
    trained = [label for label, item in criteria.items() if item.roles and label not in others]
    if by is None and is_convertible(encoder) and len(trained) == 1:
        by = trained[0]
    return by in criteria and any(role in TASK_ROLES for role in criteria[by].roles)


def _export_as_it_is(
    loaded: Loaded,
    encoder: HuggingFace,
    by: str | None,
    replacement: AtomicFolder,
    vectors: Vectors | None,
) -> Exported:
    """Export an encoder that is a model of transformers, without a head. Raises ConfigError where one is asked for."""
    if by not in (None, ENCODER) and vectors is None:
        raise ConfigError(
            "--by",
            f"is '{by}', and of the model 'hf' the encoder alone is exported; expected {ENCODER}",
        )
    class_name = type(encoder.model).__name__
    with replacement as target, _quiet(_import_transformers()):
        differences = write_encoder(loaded, encoder, target)
        tokenizers.compare(loaded.tokenizer, target)
        name = ENCODER if vectors is None else vectors.by or ENCODER
        return _completed(Exported(class_name, name, differences), loaded, vectors, target, False)


def _architecture_of(loaded: Loaded, part: Part, family: str) -> Architecture:
    """Return the class that holds a part. Raises ConfigError where none does."""
    hidden = None if part.form is None else part.form.hidden
    if family == "auto" and _has_discriminator(loaded) and has_head(ELECTRA, part.role, hidden):
        family = "electra"  # of its generator too
    architecture = choose_architecture(part.encoder.config, part.role, family, hidden)
    require_held(part.by, part.form, architecture)
    return architecture


def _has_discriminator(loaded: Loaded) -> bool:
    criteria: list[Any] = list(loaded.module.criteria.values())
    return any(REPLACED_TOKEN in criterion.roles for criterion in criteria)


def _write(
    transformers: ModuleType,
    loaded: Loaded,
    part: Part,
    architecture: Architecture,
    folder: Path,
) -> None:
    """Write config, weights and tokenizer. Raises RunError where the disk is full or transformers has changed."""
    tokenizer, encoder = loaded.tokenizer, part.encoder
    length = loaded.task.length() or DEFAULT_LENGTH
    options = transformers_options(encoder, architecture.family, length)
    config = getattr(transformers, architecture.family.config_class)(
        **options,
        **head_options(part.form, architecture, part.outputs),
        pad_token_id=max(tokenizer.pad, 0),
        tie_word_embeddings=_is_tied(part),
    )
    model_class = getattr(transformers, architecture.class_name)
    model = model_class(config, **pooling_arguments(encoder, architecture))
    _load_weights(model, _weights(part, architecture, options), transformers.__version__)
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise RunError(f"the weights could not be written ({str(error)[:120]})") from None
    tokenizers.write(
        tokenizer, folder, config.max_position_embeddings, pairs=encoder.config.segments > 1
    )


def _is_tied(part: Part) -> bool:
    """Return whether the output matrix is the token embedding; True for a part without one, as in transformers."""
    if part.role != MASKED_LM:
        return True
    assert part.head is not None
    output: Any = part.head.output
    return output.weight is part.encoder.embeddings.token.weight


def _weights(part: Part, architecture: Architecture, options: PlainDict) -> dict[str, Tensor]:
    """Return all weights under the names of transformers."""
    encoder = part.encoder
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    pooler = exports_pooler(encoder, architecture)
    if part.form is not None:
        tensors |= head_tensors(part.form, architecture, part.outputs)
        pooler = architecture.head.pooler
    elif part.head is not None:
        tensors |= {f"head.{name}": value for name, value in part.head.state_dict().items()}
    weights = to_transformers(tensors, weight_names(encoder.config, architecture, pooler))

    width = encoder.embeddings.token.embedding_dim
    for name, (table, size) in OPTIONAL_TABLES.items():
        if getattr(encoder.embeddings, name) is None:  # zeros add nothing in transformers either
            table = f"{architecture.prefix}embeddings.{table}.weight"
            weights[table] = torch.zeros(options[size], width)
    if architecture == Architecture(BERT, MASKED_LM):  # which has the bias under two names
        weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"]
    return weights


def _load_weights(model: Any, weights: dict[str, Tensor], version: str) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    buffers = ("position_ids", "token_type_ids")
    missing = [name for name in missing if not any(buffer in name for buffer in buffers)]
    if missing or unexpected:
        raise RunError(
            f"this version of transformers ({version}) has other weights in {type(model).__name__}: "
            f"{', '.join([*missing, *unexpected][:4])}"
        )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Suppress progress bars and warnings of transformers: what they report is compared anyway."""
    log = transformers.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _import_transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise DataError(
            "this needs the package 'transformers'; install it with pip install 'fwk[hf]'"
        ) from None
    return transformers
