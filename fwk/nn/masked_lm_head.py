"""The head that predicts tokens at chosen positions, shared by masked-LM criteria and learned noisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.components.examples import such_as
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.encoder import Encoder
from fwk.contracts.options import option
from fwk.contracts.views import View
from fwk.errors import ConfigError
from fwk.nn.compiled import when_compiling
from fwk.nn.softmax import Softmax, cross_entropy

OutputBias = Literal["unigram", "zeros"]

OUTPUT_BIAS: OutputBias = option(
    "unigram",
    "initial bias of the output: the tokens' log frequency, where the task knows it, or zeros (BERT)",
)


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of every criterion that has a `MaskedLMHead`."""

    tied_output: bool = option(
        True, "the output matrix is the encoder's token embedding (BERT: yes)"
    )
    output_bias: OutputBias = OUTPUT_BIAS


class MaskedLMHead(nn.Module):
    """features [..., D] -> logits [..., V]: dense, GELU, layer norm, output matrix.

    tied: the output matrix is the encoder's token embedding [V, E]. counts: [V], occurrences of each token. With counts
    the softmax of the initial bias alone gives each token its frequency (plus half an occurrence), so the first updates
    need not learn it; without, the bias starts at zero as in BERT. Raises ConfigError where a tied head has no token
    embedding.
    """

    loss_term = "masked_lm"  # see `GuessesTokens`

    def __init__(
        self, encoder: Encoder, vocabulary: int, tied: bool = True, counts: Tensor | None = None
    ) -> None:
        super().__init__()
        embedding = encoder.embedding() if tied else None
        if tied and embedding is None:
            raise ConfigError(
                "model",
                f"{type(encoder).__name__} has no token embedding that an output can be tied to",
            )
        inner = encoder.width if embedding is None else embedding.embedding_dim
        self.transform = nn.Linear(encoder.width, inner)
        self.norm = nn.LayerNorm(inner, eps=1e-12)
        self.output = nn.Linear(inner, vocabulary)
        for linear in (self.transform, self.output):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if embedding is not None:
            self.output.weight = embedding.weight
        if counts is not None:
            with torch.no_grad():
                self.output.bias.copy_(((counts + 0.5) / (counts.max() + 0.5)).log())

    @classmethod
    def from_options(cls, build: BuildContext, tied: bool, bias: OutputBias) -> MaskedLMHead:
        """Return the head of a criterion with the options `tied_output` and `output_bias`."""
        vocabulary = build.require_vocabulary()
        counts = vocabulary.counts if bias == "unigram" else None
        return cls(build.require_encoder(), vocabulary.size, tied, counts)

    def apply_transform(self, features: Tensor) -> Tensor:
        """Return what the output matrix is multiplied by: features [..., D] -> [..., E]."""
        return self.norm(F.gelu(self.transform(features)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits [..., V] of features [..., D]."""
        return self.output(self.apply_transform(features))

    def token_probabilities(self, features: Tensor) -> Tensor:
        """Return the probability of every token: features [..., D] -> float32 [..., V]."""
        return self(features).float().softmax(-1)

    def losses(
        self, features: Tensor, target: Tensor, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy in nats and the most likely token at each position, both [...].

        features: [..., D]. target: int64 [...]. The logits of all positions never exist at the same time.
        """
        hidden = self.apply_transform(features).flatten(0, -2)
        losses, best = cross_entropy(
            hidden, self.output.weight, self.output.bias, target.flatten(), smoothing
        )
        return losses.view(target.shape), best.view(target.shape)


def count_chosen(view: View) -> Tensor:
    """Return the number of chosen positions of the view, 0-d. Raises ConfigError where its noiser chooses none."""
    if view.valid is None:
        example = such_as("noiser", lambda cls: cls.chooses)
        raise ConfigError(
            f"views.{view.name}.noiser",
            f"chooses no positions, and a criterion predicts the chosen ones; name a noiser that chooses some{example}",
        )
    return view.valid.sum()


def replaced_tokens(view: View) -> Tensor:
    """Return where the view's tokens differ from the original ones, bool [B, T].

    Raises ConfigError where its noiser does not set `changed`.
    """
    if view.changed is None:
        example = such_as("noiser", lambda cls: cls.chooses)
        raise ConfigError(
            f"views.{view.name}.noiser",
            f"does not say which tokens it changed, and a criterion judges that; name a noiser that does{example}",
        )
    return view.changed


def masked_lm_sums(head: MaskedLMHead, view: View, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses over the view's chosen positions and the number of correct predictions, both 0-d."""
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
    """Return log p(x_t | the others) of every token that is not special, [B, T] in nats; 0 at special tokens.

    Each token is scored in a copy of the text in which it is masked: the pseudo-log-likelihood of Salazar et al. 2020,
    "Masked Language Model Scoring". mask: the id of [MASK]. Raises ConfigError where the tokenizer has no such token.
    """
    if mask < 0:
        raise ConfigError(
            "task.tokenizer",
            "has no [MASK] token, and a masked LM scores each token where it is masked",
        )
    tokens = text.tokens  # [B, T]
    special = torch.zeros_like(tokens, dtype=torch.bool) if text.special is None else text.special
    scored = (~special).nonzero()  # [M, 2], row and position of each token to score
    log_probs = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)

    copies_per_call = max(1, context.budget // tokens.shape[1])
    for part in scored.split(copies_per_call):
        row, position = part.unbind(1)  # each [m]
        number = torch.arange(len(row), device=row.device)
        masked = tokens[row]  # [m, T]
        masked[number, position] = mask
        inputs = {name: value[row] for name, value in text.inputs.items()} | {"tokens": masked}
        encoded = context.encode(text.replace(inputs=inputs, draws=text.draws[row]))
        hidden = head.apply_transform(encoded.features[number, position])  # [m, E]
        softmax = Softmax(hidden, head.output.weight, head.output.bias)
        log_probs[row, position] = softmax.log_probs(tokens[row, position], temperature).float()
    return log_probs
