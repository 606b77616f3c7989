"""A checkpoint -> a folder that `transformers` loads, compared on the spot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from fwk.config.identity import to_yaml
from fwk.errors import ConfigError, DataError, RunError, did_you_mean
from fwk.files import AtomicFolder
from fwk.hf import tokenizer as tokenizers
from fwk.hf.families import (
    Shape,
    names,
    options_there,
    refuse_what_does_not_fit,
    shape_for,
    to_there,
)
from fwk.models.bert import Bert
from fwk.runs.loaded import Loaded

TOLERANCE = 1e-5
ENCODER = "encoder"  # what --by says for an encoder alone


@dataclass(frozen=True)
class Part:
    """What is exported: an encoder, and a head by its role. by: who has the head."""

    by: str
    encoder: Bert
    role: str | None
    head: nn.Module | None


@dataclass(frozen=True)
class Exported:
    """What was exported."""

    class_name: str  # of transformers
    by: str  # whose head, or 'encoder'
    differences: dict[str, float]  # from fwk's own outputs, by quantity and precision


def find_part(loaded: Loaded, by: str | None) -> Part:
    """by: a criterion's label, a view with a learned noiser, or 'encoder' (default: the only criterion with a head that is known
    over there, else the encoder alone)."""
    module = loaded.module
    criteria = {name: one for name, one in module.criteria.items() if one.roles}
    noisers = {name: one for name, one in module.learned.items() if one.roles}
    if by is None:
        if len(criteria) > 1:
            raise ConfigError(
                "--by",
                f"several criteria have a head; name one of {', '.join(criteria)}, or '{ENCODER}' for none",
            )
        by = next(iter(criteria), ENCODER)
    if by == ENCODER:
        encoder, role, head = loaded.model, None, None
    elif by in criteria:
        network = module.specs[module.encodes[by][0]].encoder
        encoder, role, head = module.networks[network], criteria[by].roles[0], criteria[by].head
    elif by in noisers:
        encoder, role, head = noisers[by].network, noisers[by].roles[0], noisers[by].head
    else:
        known = [*criteria, *noisers, ENCODER]
        raise ConfigError(
            "--by",
            f"'{by}' has no head that transformers knows; expected one of {', '.join(known)}{did_you_mean(by, known, everything_up_to=0)}",
        )
    encoder = encoder.innermost()
    refuse_what_does_not_fit(encoder, role)
    return Part(by, encoder, role, head)


def export(
    loaded: Loaded,
    folder: str | Path,
    by: str | None = None,
    family: str = "auto",
    overwrite: bool = False,
) -> Exported:
    """Writes config, weights (safetensors), tokenizer and a model card, loads them back with transformers and compares; the
    folder is there in whole or not at all. Returns what was compared. ConfigError for what the families cannot hold."""
    transformers = _transformers()
    replacement = AtomicFolder(
        Path(folder),
        overwrite,
        lambda there: "tags: [fwk]" in _start_of(there / "README.md"),
        (loaded.folder.parent.parent,),
    )
    if loaded.tokenizer is None:
        raise ConfigError(
            "task",
            f"{loaded.folder} was trained on a task without text, which transformers has no tokenizer for",
        )
    part = find_part(loaded, by)
    if family == "auto" and any(
        "replaced_token" in one.roles for one in loaded.module.criteria.values()
    ):
        family = "electra"  # generator and discriminator are of one family
    shape = shape_for(part.encoder.config, part.role, family)
    with replacement as beside:
        with _silent(transformers):
            _write(transformers, loaded, part, shape, beside)
            found = _compare(transformers, loaded, part, shape, beside)
        (beside / "README.md").write_text(card(loaded, part, shape, found), encoding="utf-8")
    return Exported(shape.class_name, part.by, found)


def _start_of(path: Path) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(1000)
    except (OSError, UnicodeDecodeError):
        return ""


def _write(transformers: Any, loaded: Loaded, part: Part, shape: Shape, folder: Path) -> None:
    tokenizer, encoder = loaded.tokenizer, part.encoder
    options = options_there(encoder, loaded.task.length() or 512)
    if shape.family == "bert":
        del options["embedding_size"]
    config_class = getattr(transformers, f"{shape.family.capitalize()}Config")
    config = config_class(
        **options,
        pad_token_id=max(tokenizer.pad, 0),
        tie_word_embeddings=part.role != "masked_lm"
        or part.head.output.weight is encoder.embeddings.token.weight,
    )
    kept = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    kept |= {
        f"head.{name}": value
        for name, value in (part.head.state_dict().items() if part.head is not None else ())
    }
    weights = to_there(kept, names(encoder.config, shape))
    model_class = getattr(transformers, shape.class_name)
    model = (
        model_class(config, add_pooling_layer=False)
        if shape.class_name == "BertModel"
        else model_class(config)
    )
    for name, width in (("position", "max_position_embeddings"), ("segment", "type_vocab_size")):
        if getattr(encoder.embeddings, name) is None:  # adds nothing there either
            there = {"position": "position_embeddings", "segment": "token_type_embeddings"}[name]
            weights[f"{shape.prefix}embeddings.{there}.weight"] = torch.zeros(
                options[width], encoder.embeddings.token.embedding_dim
            )
    if shape == Shape("bert", "masked_lm"):
        weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"]
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [
        name for name in missing if "position_ids" not in name and "token_type_ids" not in name
    ]
    if missing or unexpected:
        raise RunError(
            f"this version of transformers ({transformers.__version__}) has other weights in {shape.class_name}: "
            f"{', '.join([*missing, *unexpected][:4])}"
        )
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # a full disk, in the words of the library that writes
        raise RunError(f"the weights could not be written ({str(error)[:120]})") from None
    tokenizers.write(
        tokenizer, folder, config.max_position_embeddings, pairs=encoder.config.segments > 1
    )


@torch.no_grad()
def _compare(
    transformers: Any, loaded: Loaded, part: Part, shape: Shape, folder: Path
) -> dict[str, float]:
    """Largest differences of features and logits, in fp64 and fp32, over what is no padding. RunError above the tolerance, which
    in fp32 grows with the size of numbers above 1: so does their rounding."""
    tokenizers.compare(loaded.tokenizer, folder)
    options = {"add_pooling_layer": False} if shape.class_name == "BertModel" else {}
    theirs = getattr(transformers, shape.class_name).from_pretrained(folder, **options).eval()
    vocabulary, limit = theirs.config.vocab_size, theirs.config.max_position_embeddings
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocabulary, (4, min(limit, 64)), generator=generator)
    length = torch.tensor(
        [tokens.shape[1], max(tokens.shape[1] // 2, 1), max(tokens.shape[1] - 1, 1), 1]
    )
    mask = torch.arange(tokens.shape[1]) < length[:, None]
    pairs = (
        (torch.arange(tokens.shape[1]) >= length[:, None] // 2).long()
        if part.encoder.config.segments > 1
        else torch.zeros_like(tokens)
    )
    found, sizes = {}, {}
    for dtype in (torch.float64, torch.float32):
        encoder, head = (
            part.encoder.to(dtype).eval(),
            None if part.head is None else part.head.to(dtype).eval(),
        )
        theirs = theirs.to(dtype)
        features = encoder({"tokens": tokens, "segments": pairs}, mask).features
        base = getattr(theirs, shape.family) if shape.role else theirs
        inputs = {"input_ids": tokens, "attention_mask": mask.long(), "token_type_ids": pairs}
        differ = {"features": (features - base(**inputs).last_hidden_state)[mask]}
        if head is not None:
            logits = head(features)
            differ["logits"] = (logits.squeeze(-1) if shape.role == "replaced_token" else logits)[
                mask
            ] - theirs(**inputs).logits[mask]
        for what, values in differ.items():
            name = f"{what}, {str(dtype).removeprefix('torch.')}"
            found[name] = float(values.abs().max())
            sizes[name] = (
                max(1.0, float((features if what == "features" else logits).abs().max()))
                if dtype == torch.float32
                else 1.0
            )
    for what, value in found.items():
        if not value <= TOLERANCE * sizes[what]:
            raise RunError(
                f"transformers gives other {what} than fwk: they differ by {value:.1e}, expected at most "
                f"{TOLERANCE * sizes[what]:.1e}; nothing was written"
            )
    return found


def card(loaded: Loaded, part: Part, shape: Shape, found: dict[str, float]) -> str:
    """The model card: what was trained on what, how, how well, and how to load it."""
    state = json.loads((loaded.folder / "state.json").read_text(encoding="utf-8"))
    lines = [
        "---",
        "library_name: transformers",
        "tags: [fwk]",
        "---",
        "",
        f"# {shape.class_name} trained with fwk",
        "",
        f"Objective: {', '.join(f'{label} ({spec.component.name})' for label, spec in loaded.config.criterion.items())}; the head is that of "
        f"`{part.by}`."
        if part.head is not None
        else "An encoder without a head.",
        f"Update {state['update']:,}, {state.get('tokens', 0):,} tokens. Data fingerprint `{state.get('fingerprint', 'unknown')}`.",
        "",
        "```python",
        "from transformers import AutoTokenizer, " + shape.class_name,
        "",
        f'model = {shape.class_name}.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "```",
        "",
        "## Metrics",
        "",
    ]
    metrics = state.get("last_metrics") or {}
    lines += [
        f"- {split}/{name}: {value:.6g}"
        for split, values in metrics.items()
        for name, value in values.items()
    ] or ["none recorded"]
    lines += [
        "",
        "## Compared with fwk",
        "",
        *(f"- {what}: largest difference {value:.1e}" for what, value in found.items()),
        "",
        "## Configuration",
        "",
        "```yaml",
        to_yaml(loaded.config).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Without its bars and warnings, which tell of things that are compared here anyway."""
    talk = transformers.logging
    before, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(before)
        if bars:
            talk.enable_progress_bar()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise DataError(
            "this needs the package 'transformers'; install it with pip install 'fwk[hf]'"
        ) from None
    return transformers
