"""Random text with corpus counts, and the noisers that corrupt it."""

from __future__ import annotations

import torch

from fwk import BuildContext, Key, View, Vocabulary
from fwk.config.resolve import build
from fwk.contracts.views import Encoded
from fwk.models.bert import Bert

V, T, B = 23, 12, 9

COUNTS = torch.arange(V, dtype=torch.float64) ** 2

VOCABULARY = Vocabulary(
    size=V, pad=0, unk=1, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4), counts=COUNTS
)

SIZES = {"layers": 2, "width": 16, "heads": 4, "dropout": 0.0, "attention_dropout": 0.0}


class Running:
    """What a learned noiser asks of its context."""

    def __init__(self, network, training=True):
        self.network, self.training = network, training

    def encode(self, view, mode="train", ema=False, network=None, states=None) -> Encoded:
        before = self.network.training
        self.network.train(mode == "train" and self.training)
        try:
            return self.network(view.inputs, view.mask)
        finally:
            self.network.train(before)


def text(rows=B, length=T, seed=0) -> View:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, V, (rows, length), generator=generator)
    sizes = torch.randint(5, length + 1, (rows, 1), generator=generator)
    tokens[:, 0] = 2
    tokens = tokens.scatter(1, sizes - 1, 3)
    mask = torch.arange(length) < sizes
    tokens = torch.where(mask, tokens, 0)
    return View(
        name="batch",
        draws=torch.arange(rows),
        inputs={"tokens": tokens},
        mask=mask,
        special=(tokens == 2) | (tokens == 3),
        target=tokens,
    )


def masked(view: View, ratio=0.4) -> View:
    from fwk.noisers.bert_mask import BertMask

    made = BertMask(
        BertMask.Config(ratio=ratio, mask=1.0, random=0.0), BuildContext(vocabulary=VOCABULARY)
    )
    return made.apply(view, Key(1, "masked", view.draws)).replace(name="masked")


def encoder(**options) -> Bert:
    torch.manual_seed(0)
    return build_model(Bert, {**SIZES, **options})


def learned(cls, network, **options):
    torch.manual_seed(1)
    return cls(
        build(cls, options),
        BuildContext(name="corrupted", of="masked", vocabulary=VOCABULARY, network=network),
    ).double()


def static(cls, **options):
    return cls(build(cls, options), BuildContext(name="corrupted", vocabulary=VOCABULARY))


def key(view: View, purpose="corrupted", seed=1) -> Key:
    return Key(seed, purpose, view.draws)


def build_model(cls, options, main=None):
    return cls(
        build(cls, options), BuildContext(vocabulary=VOCABULARY, length=T, encoder=main)
    ).double()
