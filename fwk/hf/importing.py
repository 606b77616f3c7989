"""A folder of `transformers` (BERT or ELECTRA) -> a run's folder with a checkpoint of update 0. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.config.resolve import from_mapping
from fwk.config.run_config import RunConfig
from fwk.data import tokenizers
from fwk.engine.build import build_module
from fwk.engine.saving import checkpoint
from fwk.engine.saving.state import model_tensors, write_weights
from fwk.errors import DataError
from fwk.files import AtomicFolder
from fwk.hf.families import CLASSES, Shape, names, options_here, refuse_another_eps, to_here

PARTS = {name: Shape(*key) for key, name in CLASSES.items()}
# heads that are left behind: they are none of the objective's, or are made anew for each task
LEFT = ("pooler.", "cls.seq_relationship.", "classifier.", "position_ids", "token_type_ids")


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    class_name: str  # of transformers
    by: str  # the criterion that has the head, or 'encoder'
    left_behind: list[str]  # names of weights


def import_folder(source: str | Path, run: str | Path, overwrite: bool = False) -> Imported:
    """Reads config, weights and tokenizer, and writes a run's folder that `fwk.load`, fwk-score and fwk-export read. Returns what
    was read and which weights were left behind. DataError and ConfigError name what does not fit."""
    source, run = Path(source), Path(run)
    state = Path("checkpoints") / checkpoint.folder_name(0) / "state.json"
    replacement = AtomicFolder(
        run,
        overwrite,
        lambda there: (there / state).is_file() and '"imported"' in (there / state).read_text(),
        (source,),
    )
    there = _config(source)
    shape = _shape(there, source)
    tensors = _tensors(source)
    options = options_here(there, shape.family, str(source / "config.json"))
    tokenizer = tokenizers.load(source, lower=_lower(source))
    if tokenizer.size != (size := there.get("vocab_size")):
        raise DataError(
            f"{source}: the tokenizer has {tokenizer.size:,} tokens and config.json says {size!r} (vocab_size); expected the same"
        )
    load_plugins()
    with replacement as beside:
        found = _write(shape, options, tensors, tokenizer, beside, run)
    return Imported(shape.class_name, found["by"], found["left"])


def _write(
    shape: Shape,
    options: Mapping[str, Any],
    tensors: dict[str, Tensor],
    tokenizer: tokenizers.Tokenizer,
    folder: Path,
    run: Path,
) -> dict[str, Any]:
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    tied = True
    if shape.role == "masked_lm":
        tied = _untie(shape, tensors)
    if shape.role == "masked_lm":
        refuse_another_eps(options["norm_eps"])
    config = _run_config(shape, options, tied, run)
    module = build_module(
        config, config.task.cls.without_data(config.task.config, config.seed, folder)
    )
    own = model_tensors(module)
    pairs = names(config.model.config, shape)
    read = to_here(tensors, pairs)
    label = next(iter(config.criterion))
    targets = {"encoder.": "networks.main.", "head.": f"criteria.{label}.head."}
    values = {
        targets[name.partition(".")[0] + "."] + name.partition(".")[2]: value
        for name, value in read.items()
    }
    wanted = {
        name for name in own if name.startswith(("networks.main.", f"criteria.{label}.head."))
    }
    if shape.role is None:
        wanted = {name for name in wanted if name.startswith("networks.main.")}
    if missing := sorted(wanted - values.keys()):
        raise DataError(
            f"the weights lack {', '.join(missing[:4])} (in our names), which a {shape.class_name} has"
        )
    for name in wanted:
        if own[name].shape != values[name].shape:
            raise DataError(
                f"the weight {name} is {list(values[name].shape)} and its configuration says {list(own[name].shape)}"
            )
    model = {
        name: values[name].to(own[name].dtype) if name in wanted else value
        for name, value in own.items()
    }
    known = {one for theirs in pairs.values() for one in theirs}
    left = sorted(name for name in tensors if name not in known)
    if odd := [name for name in left if not any(part in name for part in LEFT)]:
        raise DataError(
            f"there are weights that a {shape.class_name} does not have: {', '.join(odd[:4])}"
        )
    write_weights(folder, model, config, shape.class_name, fingerprint=tokenizer.fingerprint)
    return {
        "by": label if shape.role else "encoder",
        "left": [name for name in left if not name.endswith("_ids")],
    }


def _run_config(shape: Shape, options: Mapping[str, Any], tied: bool, run: Path) -> RunConfig:
    role = (
        shape.role or "masked_lm"
    )  # an encoder alone gets a fresh head, as every run has an objective
    names_of_role = [
        entry.name
        for entry in registry.entries("criterion")
        if role in registry.get("criterion", entry.name).cls.roles
    ]
    if not names_of_role:
        raise DataError(
            f"no criterion here has a head of the kind '{role}'; install the plugin that has one"
        )
    name = role if role in names_of_role else sorted(names_of_role)[0]
    criterion: dict[str, Any] = {} if tied else {"tied_output": False}
    cls = registry.get("criterion", name).cls
    views = {}
    if role != "masked_lm":  # noise that needs no network: whoever goes on training chooses another
        views = {cls.Config().view: {"noiser": "bert_mask", "of": None, "mask": 0.0, "random": 1.0}}
    return from_mapping(
        {
            "task": {
                "name": "mlm",
                "length": max(int(options["length"]), 8),
                "tokenizer": str(run / "tokenizer"),
            },
            "model": {"name": "bert", **options},
            "criterion": {name: criterion},
            "views": views,
            "run": str(run),
        }
    )


def _untie(shape: Shape, tensors: dict[str, Tensor]) -> bool:
    """Puts a tied output matrix and a bias that goes by another name where they are looked for; whether they are tied."""
    output = {"bert": "cls.predictions.decoder", "electra": "generator_lm_head"}[shape.family]
    embedding = f"{shape.prefix}embeddings.word_embeddings.weight"
    if embedding not in tensors:
        raise DataError(f"the weights lack {embedding}")
    if shape.family == "bert" and (bias := tensors.pop("cls.predictions.bias", None)) is not None:
        tensors.setdefault(f"{output}.bias", bias)
    if f"{output}.weight" not in tensors:
        tensors[f"{output}.weight"] = tensors[embedding]
    return tensors[f"{output}.weight"].equal(tensors[embedding])


def _config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not source.is_dir():
        raise DataError(
            f"{source} is not a folder; expected one with config.json, model.safetensors and a tokenizer"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({str(error)[:80]})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _shape(there: Mapping[str, Any], source: Path) -> Shape:
    said = there.get("architectures")
    said = (
        said[0] if isinstance(said, list) and len(said) == 1 and isinstance(said[0], str) else said
    )
    if said == "BertForPreTraining":
        said = "BertForMaskedLM"  # its second head, of the next sentence, is left behind
    if isinstance(said, str) and said in PARTS:
        return PARTS[said]
    raise DataError(
        f"{source / 'config.json'}: the architecture is {said!r}; expected one of {', '.join(PARTS)}"
    )


def _tensors(source: Path) -> dict[str, Tensor]:
    index = source / "model.safetensors.index.json"
    files = [source / "model.safetensors"]
    if index.is_file():
        try:
            files = sorted(
                {
                    source / Path(name).name
                    for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
                }
            )
        except (ValueError, KeyError, AttributeError, TypeError):
            raise DataError(f"{index} is not an index of weights") from None
    found: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            pickled = (
                " (pytorch_model.bin is a pickle, which is not read: save it as safetensors)"
                if (source / "pytorch_model.bin").exists()
                else ""
            )
            raise DataError(f"{file} is not there{pickled}")
        try:
            found.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} cannot be read ({str(error)[:100]})") from None
    renamed = {
        "LayerNorm.gamma": "LayerNorm.weight",
        "LayerNorm.beta": "LayerNorm.bias",
    }  # of weights from before there was torch
    for name in list(found):
        for old, new in renamed.items():
            if name.endswith(old):
                found[name.removesuffix(old) + new] = found.pop(name)
    return found


def _lower(source: Path) -> bool | None:
    """What tokenizer_config.json says of case, for a vocab.txt alone. DataError for what a vocab.txt cannot be read with here."""
    try:
        said = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
        lower, accents, chinese = (
            said.get(key) for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        )
    except (OSError, ValueError, AttributeError):
        return None
    if not (source / "tokenizer.json").is_file() and (
        accents not in (None, lower) or chinese is False
    ):
        raise DataError(
            f"{source / 'tokenizer_config.json'}: strip_accents {accents} with do_lower_case {lower}, or tokenize_chinese_chars false, "
            "is read from a tokenizer.json only; save the tokenizer as one"
        )
    return lower
