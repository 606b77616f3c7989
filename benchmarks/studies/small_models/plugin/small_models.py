"""The plugin of the study of small masked LMs.

A head whose logits have another scale and which reports the loss at [MASK] alone, and a hook that records when
that loss falls below the unigram entropy by given amounts, and at what cost.
"""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fwk
from fwk.criteria.masked_lm import MaskedLM
from fwk.errors import ConfigError
from fwk.nn.softmax import token_losses


@fwk.register("criterion", "scaled_masked_lm")
class ScaledMaskedLM(MaskedLM):
    """Masked LM whose logits are `scale` times those of the plain head, the bias excepted."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MaskedLM.Config):
        scale: float = fwk.option(
            1.0, "factor on the products of features and output embeddings", low=0
        )

    def __init__(self, config: Config, build: fwk.BuildContext):
        super().__init__(config, build)
        self.mask = build.vocabulary.mask
        self.register_buffer(
            "log_share", torch.zeros(build.vocabulary.size), persistent=False
        )  # set by the hook below
        self.head.norm.register_forward_hook(lambda module, inputs, output: config.scale * output)

    def forward(self, views: Mapping[str, fwk.View], context: fwk.Context) -> fwk.Output:
        view = views[self.config.view]
        target = view.at_positions(view.target)  # [B, K]
        losses = token_losses(
            self.head(view.at_positions(view.encoded.features)), target, self.config.label_smoothing
        )
        hidden = view.valid & (view.at_positions(view.tokens) == self.mask)  # [B, K]
        return fwk.Output(
            terms={"masked_lm": fwk.LossTerm(losses.masked_fill(~view.valid, 0.0).sum())},
            statistics={
                "gained": (-self.log_share[target] - losses.detach())
                .masked_fill(~hidden, 0.0)
                .sum(),
                "hidden": hidden.sum(),
            },
        )

    def metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Nats below the unigram model on the same tokens: how easy a batch is cancels."""
        return {"below_unigram": float(sums["gained"] / sums["hidden"].clamp(min=1))}


@fwk.register("hook", "below_unigram")
class BelowUnigram:
    """Record how far the training loss at [MASK] is below that of the unigram model on the same tokens.

    The loss is a running mean; the run stops when it has passed every level.

    At [MASK] alone, because BERT's masking leaves a tenth of the chosen tokens as they are: a model that has
    only learned to copy what it sees is already 0.4 nats below the unigram entropy over all chosen positions.
    The loss of the first epoch is that of text not seen before, so it needs no validation pass and resolves
    single updates. `seconds` are CPU time within updates only.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        out: str = fwk.option(doc="the JSON file to write")
        below: tuple[float, ...] = fwk.option((0.3, 1.0), "nats below unigram that are noted")
        window: int = fwk.option(25, "updates of the running mean", low=1)
        stop: bool = fwk.option(True, "stop at the last bar")
        scales: dict[str, float] = fwk.option(
            {}, "glob pattern over parameter names -> factor on their initial values"
        )

    def __init__(self, config: Config):
        self.config = config
        self.gains: deque[float] = deque(maxlen=config.window)
        self.curve: list[float] = []
        self.crossed: dict[str, list[float]] = {}
        self.seconds = 0.0

    @fwk.hookimpl
    def fwk_run_begin(self, run: Any) -> None:
        vocabulary = run.task.vocabulary()
        counts = np.zeros(vocabulary.size)
        for split in run.task.token_splits("train"):
            for document in range(split.documents):
                counts += np.bincount(split.document(document), minlength=vocabulary.size)
        counts[[token for token in vocabulary.special if token != vocabulary.unk]] = 0
        share = counts / counts.sum()
        self.unigram = float(-(share[share > 0] * np.log(share[share > 0])).sum())
        log_share = torch.from_numpy((counts + 0.5) / (counts + 0.5).sum()).log().float()
        for criterion in run.module.criteria.values():
            criterion.log_share.copy_(log_share)
        with torch.no_grad():
            for pattern, factor in self.config.scales.items():
                matching = [
                    p for name, p in run.module.named_parameters() if fnmatchcase(name, pattern)
                ]
                if not matching:
                    raise ConfigError("hooks.watch.scales", f"'{pattern}' matches no parameter")
                for parameter in matching:
                    parameter.mul_(factor)

    @fwk.hookimpl
    def fwk_update_begin(self) -> None:
        self.began = time.process_time()

    @fwk.hookimpl
    def fwk_update_end(self) -> None:
        self.seconds += time.process_time() - self.began

    @fwk.hookimpl
    def fwk_logged(self, run: Any, record: dict[str, Any]) -> None:
        gained = [
            value
            for name, value in record.get("metrics", {}).items()
            if name.endswith("/below_unigram")
        ]
        if record.get("split") != "train" or not gained:
            return
        self.gains.append(gained[0])
        self.curve.append(round(gained[0], 4))
        if len(self.gains) < self.config.window:
            return
        for bar in self.config.below:
            if sum(self.gains) / len(self.gains) > bar:
                self.crossed.setdefault(str(bar), [run.update, round(self.seconds, 2)])
        if self.config.stop and len(self.crossed) == len(self.config.below):
            signal.raise_signal(
                signal.SIGUSR1
            )  # the trainer stops after this update, as a scheduler would have it

    @fwk.hookimpl
    def fwk_run_end(self, run: Any, status: str) -> None:
        parameters = sum(p.numel() for p in run.module.parameters())
        Path(self.config.out).write_text(
            json.dumps(
                {
                    "unigram": self.unigram,
                    "crossed": self.crossed,
                    "updates": run.update,
                    "seconds": round(self.seconds, 2),
                    "below_at_end": sum(self.gains) / max(1, len(self.gains)),
                    "parameters": parameters,
                    "valid": run.last_metrics.get("valid", {}),
                    "curve": self.curve,
                    "status": status,
                }
            ),
            encoding="utf-8",
        )
