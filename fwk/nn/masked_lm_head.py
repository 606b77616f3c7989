"""The head that predicts tokens at chosen positions, shared by masked-LM criteria and learned noisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.contracts.context import BuildContext, Context
from fwk.contracts.options import option
from fwk.contracts.views import View
from fwk.errors import ConfigError
from fwk.nn.compiled import when_compiling
from fwk.nn.softmax import Softmax, cross_entropy

OutputBias = Literal["unigram", "zeros"]

OUTPUT_BIAS: OutputBias = option(
    "unigram",
    "start the output's bias at the tokens' log frequency, where the task knows it, or at zeros (BERT)",
)


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of every criterion that has a `MaskedLMHead`."""

    tied_output: bool = option(
        True, "the output matrix is the encoder's token embedding (BERT: yes)"
    )
    output_bias: OutputBias = OUTPUT_BIAS


class MaskedLMHead(nn.Module):
    """features [..., D] -> logits [..., V]. Tied: the output matrix is the encoder's token embedding [V, E].

    counts: [V], how often each token occurs. With them the bias starts where the softmax of it alone is that frequency (plus
    half an occurrence), up to a constant, so the first updates need not learn it; without, at zero as in BERT.
    """

    def __init__(
        self, encoder: Any, vocabulary: int, tied: bool = True, counts: Tensor | None = None
    ):
        super().__init__()
        embedding = encoder.embedding()
        inner = embedding.embedding_dim if tied else encoder.width
        self.transform = nn.Linear(encoder.width, inner)
        self.norm = nn.LayerNorm(inner, eps=1e-12)
        self.output = nn.Linear(inner, vocabulary)
        for linear in (self.transform, self.output):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if tied:
            self.output.weight = embedding.weight
        if counts is not None:
            with torch.no_grad():
                self.output.bias.copy_(((counts + 0.5) / (counts.max() + 0.5)).log())

    @classmethod
    def built(cls, build: BuildContext, tied: bool, bias: OutputBias) -> MaskedLMHead:
        """The head of a criterion with the options `tied_output` and `output_bias`."""
        counts = build.vocabulary.counts if bias == "unigram" else None
        return cls(build.encoder, build.vocabulary.size, tied, counts)

    def transformed(self, features: Tensor) -> Tensor:
        return self.norm(F.gelu(self.transform(features)))

    def forward(self, features: Tensor) -> Tensor:
        return self.output(self.transformed(features))

    def losses(
        self, features: Tensor, target: Tensor, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats and the likeliest id at each position, without all logits at once: features [..., D],
        target int64 [...] -> both [...]."""
        hidden = self.transformed(features).flatten(0, -2)
        losses, best = cross_entropy(
            hidden, self.output.weight, self.output.bias, target.flatten(), smoothing
        )
        return losses.view(target.shape), best.view(target.shape)


def count_chosen(view: View) -> Tensor:
    """How many positions of the view are predicted, 0-d. ConfigError when its noiser chooses none at all."""
    if view.valid is None:
        raise ConfigError(
            f"views.{view.name}.noiser",
            "chooses no positions to predict, and a criterion predicts the chosen "
            "ones; name one that chooses some, such as 'bert_mask'",
        )
    return view.valid.sum()


def replaced_tokens(view: View) -> Tensor:
    """Where the view's tokens are not the original ones, bool [B, T]. ConfigError when its noiser does not say."""
    if view.changed is None:
        raise ConfigError(
            f"views.{view.name}.noiser",
            "does not say which tokens it changed, and a criterion judges that; name one that "
            "replaces tokens, such as 'masked_lm'",
        )
    return view.changed


def masked_lm_sums(head: MaskedLMHead, view: View, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sum of the losses over the view's chosen positions, and the number the head got right; both 0-d."""
    features = view.at_positions(view.encoded.features)  # [B, K, D]
    return _sums(head, features, view.at_positions(view.target), view.valid, smoothing)


@when_compiling
def _sums(
    head: MaskedLMHead, features: Tensor, target: Tensor, valid: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    losses, best = head.losses(features, target, smoothing)  # each [B, K]
    right = (best == target) & valid
    return losses.masked_fill(~valid, 0.0).sum(), right.sum()


def masked_log_probs(
    head: MaskedLMHead, text: View, mask: int, context: Context, temperature: float = 1.0
) -> Tensor:
    """log p(x_t | the others) of every ordinary token, [B, T], from one masked copy of the text for each (the pseudo-log-
    likelihood of Salazar et al. 2020, "Masked Language Model Scoring"). mask: the id of [MASK]."""
    if mask < 0:
        raise ConfigError(
            "task.tokenizer",
            "has no [MASK] token, and a masked LM scores each token where it is masked",
        )
    tokens, places = text.tokens, (~text.special).nonzero()  # [B, T], [M, 2]
    found = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
    for row, place in (
        part.unbind(1) for part in places.split(max(1, context.budget // tokens.shape[1]))
    ):
        number = torch.arange(len(row), device=row.device)
        copies = tokens[row]
        copies[number, place] = mask
        inputs = {name: value[row] for name, value in text.inputs.items()} | {"tokens": copies}
        features = context.encode(text.replace(inputs=inputs, draws=text.draws[row])).features[
            number, place
        ]  # [m, D]
        softmax = Softmax(head.transformed(features), head.output.weight, head.output.bias)
        found[row, place] = softmax.log_probs(tokens[row, place], temperature).float()
    return found
