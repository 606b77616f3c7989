"""Rules for encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fwk.config.run_config import RunConfig
from fwk.contracts.encoder import Encoder
from fwk.contracts.plain import PlainDict
from fwk.contracts.views import View
from fwk.engine.plan import BATCH
from fwk.testing.criteria import TOLERANCE, rule_geometry, rule_resume
from fwk.testing.running import batches_of, trainer_of
from fwk.testing.subject import ConfigRule, Rule, Subject

NETWORK = "other"  # the encoder under examination, where it cannot be the main one


@contextmanager
def _encoder_and_view(config: RunConfig) -> Iterator[tuple[Encoder, View]]:
    """Yield the encoder under examination and the view of a batch that it can read."""
    with trainer_of(config) as trainer:
        networks = trainer.run.module.networks
        encoder = networks[NETWORK if NETWORK in networks else "main"]
        assert isinstance(encoder, Encoder)
        yield encoder, next(batches_of(trainer.run))[0][BATCH]


def encoder_is_padding_proof(config: RunConfig) -> str:
    """Check that neither the tokens in the padding nor its length change the features of content."""
    with _encoder_and_view(config) as (encoder, view), torch.no_grad():
        mask = view.mask
        if mask is None:
            return ""
        encoder.eval()
        clean = encoder(view.inputs, mask).features

        garbage = dict(view.inputs)
        if "tokens" in garbage:
            garbage["tokens"] = torch.where(mask, garbage["tokens"], 7)
        worst = _largest((clean - encoder(garbage, mask).features)[mask])
        if not worst < TOLERANCE:
            return f"tokens in the padding change the features of content by {worst:.1e}"

        row = int(mask.sum(1).argmin())
        T = int(mask[row].sum())
        unpadded = {
            name: x[row : row + 1, :T] if x.dim() > 1 else x[row : row + 1]
            for name, x in view.inputs.items()
        }
        worst = _largest(encoder(unpadded, None).features[0] - clean[row, :T])
        if not worst < TOLERANCE:
            return f"without its padding a sequence's features differ by {worst:.1e}"
    return ""


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def encoder_returns_named_states(config: RunConfig) -> str:
    """Check that every state that the encoder names can be requested, and is [B, ...]."""
    with _encoder_and_view(config) as (encoder, view):
        names = encoder.state_names()
        encoded = encoder(view.inputs, view.mask, None, names)
    missing = set(names) - set(encoded.states)
    if missing:
        return f"named but not returned: {', '.join(sorted(missing))}"
    width = encoded.features.shape[-1]
    if width != encoder.width:
        return f"features are {width} wide, but `width` is {encoder.width}"
    wrong = [name for name, state in encoded.states.items() if state.shape[0] != len(view)]
    if wrong:
        return f"not [B, ...]: {', '.join(wrong)}"
    return ""


ENCODER_RULES: dict[str, ConfigRule] = {
    "padding-proof": encoder_is_padding_proof,
    "named states": encoder_returns_named_states,
    "geometry": rule_geometry,
    "resume": rule_resume,
}


def encoder_rules(subject: Subject) -> dict[str, Rule]:
    """Return the rules for an encoder: as the main one, or beside it where it cannot be the main one."""
    cls = subject.cls
    known = cls.Config.__dataclass_fields__
    no_dropout = {key: 0.0 for key in ("dropout", "attention_dropout") if key in known}
    model = {"name": subject.name, **no_dropout, **subject.options}
    settings: PlainDict = {"model": model}
    if not cls.standalone:
        masked = {"noiser": "bert_mask", "encoder": NETWORK}
        settings = {"networks": {NETWORK: model}, "views": {"masked": masked}}
    return subject.rules(ENCODER_RULES, settings)
