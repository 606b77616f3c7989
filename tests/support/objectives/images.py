"""A batch that is not text: 8x8 digits, and an encoder that reads pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fwk import (
    Batch,
    Criterion,
    Encoded,
    Encoder,
    LossTerm,
    Output,
    Read,
    Source,
    Task,
    option,
    register,
)


class Digits(Source):
    def __init__(self, images, labels, name="digits"):
        self.images, self.labels, self.name = images, labels, name

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


@register("task", "test_digits")
class DigitTask(Task):
    """scikit-learn's digits, [B, 8, 8]."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self, config, seed=1):
        super().__init__(config, seed)
        from sklearn.datasets import load_digits

        data = load_digits()
        self.images, self.digits = data.images.astype(np.float32) / 16, data.target

    def splits(self):
        return ("train", "valid")

    def sources(self, split):
        rows = slice(0, 512) if split == "train" else slice(512, 640)
        return {"digits": Digits(self.images[rows], self.digits[rows])}

    def collate(self, examples, draws, sources):
        return Batch(
            inputs={"pixels": torch.tensor(np.stack([image for image, _ in examples]))},
            draws=torch.from_numpy(draws),
            source=torch.from_numpy(sources),
            labels={"digit": torch.tensor([label for _, label in examples])},
        )

    def labels(self):
        return {"digit": tuple("0123456789")}

    def inputs(self):
        return {"pixels": (8, 8)}

    def fingerprint(self):
        return hashlib.sha256(self.images.tobytes()).hexdigest()


@register("model", "test_pixels")
class Pixels(Encoder):
    """Rows of an image as positions."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = option(16, "D")

    def __init__(self, config, build):
        super().__init__(config, build)
        self.width = config.width
        self.read = nn.Linear(build.inputs["pixels"][1], config.width)
        self.mix = nn.Linear(config.width, config.width)

    def forward(self, inputs, mask, embedding_change=None, states=()):
        pixels = inputs["pixels"].to(self.read.weight.dtype)
        return Encoded(features=torch.tanh(self.mix(torch.tanh(self.read(pixels)))))


@register("criterion", "test_classify")
class Classify(Criterion):
    """Cross-entropy of a label."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        label: str = option("digit", "label")

    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = nn.Linear(build.encoder.width, len(build.labels[config.label]))

    @classmethod
    def reads(cls, config):
        return {"plain": Read({"noiser": "identity"})}

    def normalizers(self, views, context):
        return {"classify": torch.tensor(len(views["plain"]))}

    def forward(self, views, context):
        view = views["plain"]
        logits = self.head(view.encoded.features.mean(1))
        return Output(
            terms={
                "classify": LossTerm(
                    F.cross_entropy(logits, view.labels[self.config.label], reduction="sum")
                )
            }
        )
