"""BERT's Transformer encoder (Devlin et al. 2019) with the options that the objectives here need.

    x   = dropout(norm(token[x] + position + segment)) W_embedding          (W only where the embedding is factorised)
    a   = softmax(Q K^T / sqrt(d) + bias) V                                  for each head of width d = D / heads
    x   = norm(x + dropout(a W_O));  x = norm(x + dropout(W_2 gelu(W_1 x)))  post-LN, as published
    x   = x + dropout(a(norm(x)) W_O); x = x + ...                           pre-LN, with one more norm at the end

Positions are `learned` (one vector each, as published), `relative` (a learned bias per head and clipped offset on the
attention logits, shared by all layers, similar to Shaw et al. 2018 and T5), `neighbour` (the same bias, but each head
starts with +4 on the logit of one offset: -1, +1, -2, +2, ...; small masked LMs then leave the unigram plateau at once)
or `none`. T5's bias over buckets of offsets can be added to any of them (`buckets`; Raffel et al. 2020): with learned
positions this is COCO-LM's encoder, with `none` T5's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.components.registry import register
from fwk.contracts.context import BuildContext
from fwk.contracts.encoder import Encoder
from fwk.contracts.options import Plain, option
from fwk.contracts.sizes import Transformer
from fwk.contracts.views import Encoded
from fwk.errors import ConfigError
from fwk.nn.apex import import_apex
from fwk.nn.dropout import Dropout, dropout
from fwk.nn.relative import BucketedBias, RelativeBias

# layers, width, heads, as released with BERT and its miniatures (Turc et al. 2019)
SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


@register("model", "bert")
class Bert(Encoder["Bert.Config"]):
    """Transformer encoder with learned or relative positions, post- or pre-LN, optionally factorised embedding."""

    computes_first_alone = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        size: Literal["tiny", "mini", "small", "medium", "base", "large"] = option(
            "tiny",
            "layers x width / heads: tiny 2x128/2, mini 4x256/4, small 4x512/8, medium 8x512/8, base 12x768/12,"
            " large 24x1024/16",
        )
        layers: int | None = option(
            None, "number of layers (default: the size's)", low=1, high=10_000
        )
        width: int | None = option(
            None, "D, width of the hidden states (default: the size's)", low=1, high=1_000_000
        )
        heads: int | None = option(
            None,
            "attention heads (default: the size's; 4 where positions are 'neighbour' and"
            " the size has fewer)",
            low=1,
            high=100_000,
        )
        inner: int | None = option(
            None, "width of the feed-forward layer (default: 4 x width)", low=1, high=10_000_000
        )
        embedding: int | None = option(
            None, "E, width of the token embedding (default: width)", low=1, high=1_000_000
        )
        positions: Literal["learned", "relative", "neighbour", "none"] = option(
            "neighbour",
            "position information: learned (BERT), relative bias, neighbour-initialised relative bias, none",
        )
        reach: int = option(
            32, "offsets beyond +-reach share one relative bias", low=1, high=1_000_000
        )
        buckets: int = option(
            0,
            "buckets of T5's relative position bias, in addition to `positions` (0: off; T5: 32)",
            low=0,
            high=1024,
        )
        farthest: int = option(
            128,
            "offsets beyond +-farthest share the last of these buckets (T5: 128)",
            low=1,
            high=100_000,
        )
        length: int | None = option(
            None,
            "longest sequence of learned positions (default: the task's)",
            low=1,
            high=10_000_000,
        )
        direction: Literal["both", "left_to_right", "right_to_left"] = option(
            "both",
            "what a position attends to: all (BERT), itself and earlier positions, itself and later positions",
        )
        segments: int = option(2, "number of segment embeddings (0: none)", low=0, high=1_000_000)
        norm: Literal["post", "pre"] = option(
            "post", "layer norm after each residual sum (BERT) or before each block"
        )
        norm_eps: float = option(1e-12, "epsilon of the layer norms (BERT: 1e-12)", low=0)
        norm_kernel: Literal["torch", "apex"] = option(
            "torch",
            "implementation of the layer norms: torch, or NVIDIA apex's fused kernel (CUDA only)",
        )
        dropout: float = option(
            0.1, "dropout of embeddings and residual branches (BERT: 0.1)", low=0, high=1
        )
        attention_dropout: float = option(
            0.1, "dropout of attention probabilities (BERT: 0.1)", low=0, high=1
        )
        pooler: bool = option(
            False,
            "BERT's pooler, dense + tanh at the first position: the state `pooled`, for heads that read sequences",
        )
        initialisation: Literal["bert", "torch", "fan_in"] = option(
            "bert",
            "weights: normal with deviation 0.02 (BERT), torch's defaults, or normal with 1/sqrt(fan-in)",
        )

        def __post_init__(self) -> None:
            _, width, heads = self.shape()
            if width % heads:
                raise ConfigError("heads", f"width {width} is not a multiple of {heads} heads")
            self.check_buckets()

        def check_buckets(self) -> None:
            """Raise ConfigError where the buckets do not suit the direction or `farthest`."""
            sides = 2 if self.direction == "both" else 1
            if self.buckets % sides or 0 < self.buckets < 2 * sides:
                expected = (
                    "an even number of at least 4" if sides == 2 else "a number of at least 2"
                )
                raise ConfigError("buckets", f"expected 0 or {expected}, got {self.buckets}")
            nearest = self.buckets // sides // 2  # offsets per side with a bucket each
            if self.buckets and self.farthest <= nearest:
                raise ConfigError(
                    "farthest",
                    f"the nearest {nearest} offsets have a bucket each; expected more than that, got {self.farthest}",
                )

        def shape(self) -> tuple[int, int, int]:
            """Return layers, width and heads: those given, and otherwise those of the size."""
            layers, width, heads = SIZES[self.size]
            width = self.width or width
            if self.positions == "neighbour" and width % 4 == 0:
                heads = max(heads, 4)
            return self.layers or layers, width, self.heads or heads

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        if build.vocabulary is None:
            raise ConfigError("model", "'bert' reads tokens, and this task has no vocabulary")
        layers, self.width, self.heads = config.shape()
        self.embeddings = Embeddings(config, self.width, build)
        self.layers = nn.ModuleList([Layer(config, self.width, self.heads) for _ in range(layers)])
        self.final_norm = layer_norm(config, self.width) if config.norm == "pre" else nn.Identity()
        self.relative: RelativeBias | None = None
        if config.positions in ("relative", "neighbour"):
            neighbours = config.positions == "neighbour"
            self.relative = RelativeBias(self.heads, config.reach, neighbours)
        self.bucket_bias: BucketedBias | None = None
        if config.buckets:
            self.bucket_bias = BucketedBias(
                self.heads, config.buckets, config.farthest, config.direction
            )
        # the last module, so that the initial weights of all others are the same without it
        self.pooler = nn.Linear(self.width, self.width) if config.pooler else None
        self.initialise(config.initialisation)
        self.direction = config.direction
        positions = self.embeddings.position
        self.longest = 0 if positions is None else positions.num_embeddings

    @classmethod
    def transformers(
        cls, config: Config, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        """Return the sizes of this encoder."""
        layers, width, heads = config.shape()
        inner, embedding = config.inner or 4 * width, config.embedding or width
        return (Transformer(layers, width, heads, inner, embedding),)

    def initialise(self, how: str) -> None:
        """Initialise all weights. how: as the option `initialisation`."""
        for module in self.modules():
            initialise(module, how)

    def reinitialise(self, module: nn.Module, deviation: float = 0.02) -> None:
        """Give a module new weights by the option `initialisation`; the deviation is the published one."""
        if isinstance(module, nn.Linear) and self.config.initialisation == "torch":
            module.reset_parameters()
            return
        super().reinitialise(module, deviation)
        initialise(module, self.config.initialisation)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
        first_only: bool = False,
    ) -> Encoded:
        """Return the features [B, T, D] and the states: `embedding`, `layer_1` to the last [B, T, D], `pooled` [B, D].

        first_only: compute the last layer at the first position alone; it and the features are then [B, 1, D].
        """
        returned: dict[str, Tensor] = {}
        x = self.embeddings(inputs, embedding_change)  # [B, T, D]
        if "embedding" in states:
            returned["embedding"] = x
        bias = self.attention_bias(mask, x)  # None, [B, 1, 1, T] or [B or 1, heads, T, T]
        for number, layer in enumerate(self.layers, start=1):
            last = number == len(self.layers)
            x = layer(x, bias, first_only and last)  # [B, T, D]
            if f"layer_{number}" in states:
                returned[f"layer_{number}"] = x
        features = self.final_norm(x)  # [B, T, D]
        if self.pooler is not None and "pooled" in states:
            returned["pooled"] = torch.tanh(self.pooler(features[:, 0]))  # [B, D]
        return Encoded(features=features, states=returned)

    def attention_bias(self, mask: Tensor | None, x: Tensor) -> Tensor | None:
        """Return what is added to the attention logits, or, as bool, which keys each query attends to; None: all.

        mask: bool [B, T]. x: [B, T, D]. The result can be broadcast to [B, heads, T, T].
        """
        T = x.shape[1]
        allowed = None if mask is None else mask[:, None, None, :]  # [B, 1, 1, T]
        if self.config.direction != "both":
            sees = torch.ones(T, T, dtype=torch.bool, device=x.device)
            sees = sees.tril() if self.config.direction == "left_to_right" else sees.triu()
            itself = torch.eye(T, dtype=torch.bool, device=x.device)
            # padding attends at least to itself: attention to no key is NaN
            allowed = sees[None, None] if allowed is None else (sees & allowed) | itself
        biases = [bias(T) for bias in (self.relative, self.bucket_bias) if bias is not None]
        if not biases:
            return allowed
        bias = sum(biases[1:], biases[0]).to(x.dtype)[None]  # [1, heads, T, T]
        return bias if allowed is None else bias.masked_fill(~allowed, -math.inf)

    def state_names(self) -> tuple[str, ...]:
        """Return `embedding`, the layers from 1, and `pooled` where there is a pooler."""
        layers = (f"layer_{number}" for number in range(1, len(self.layers) + 1))
        return ("embedding", *layers, *(() if self.pooler is None else ("pooled",)))

    def options_of_task(self) -> dict[str, Plain]:
        """Return the length of the table of learned positions."""
        return {"length": self.longest} if self.longest else {}

    def embedding(self) -> nn.Embedding:
        """Return the token embedding."""
        return self.embeddings.token

    def parts(self) -> dict[str, str]:
        """Return embeddings, layers and position biases."""
        parts = {
            "embedding": "embeddings.token",
            "layers": "layers",
            "all_embeddings": "embeddings",
        }
        if self.embeddings.position is not None:
            parts["positions"] = "embeddings.position"
        if self.relative is not None:
            parts["relative"] = "relative"
        if self.bucket_bias is not None:
            parts["buckets"] = "bucket_bias"
        return parts


def initialise(module: nn.Module, how: str) -> None:
    """Initialise the weights of a dense layer or an embedding. how: as the option `initialisation` of `Bert`."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        if how == "fan_in" and isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif how == "bert" or isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if how != "torch" and isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def layer_norm(config: Bert.Config, width: int) -> nn.Module:
    """Return a layer norm over the last dimension; its parameters are `weight` and `bias` [width] in any case.

    Raises ConfigError where apex is wanted but not available.
    """
    if config.norm_kernel == "apex":
        apex = import_apex("normalization", "model.norm_kernel", "torch")
        return apex.FusedLayerNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps)


class Embeddings(nn.Module):
    """The sum of token, position and segment embeddings, under norm and dropout, projected to D where E differs."""

    def __init__(self, config: Bert.Config, width: int, build: BuildContext) -> None:
        super().__init__()
        size = config.embedding or width
        length = config.length or build.length
        if config.positions == "learned" and not length:
            raise ConfigError(
                "model.length",
                "learned positions need a longest sequence, and the task does not define one",
            )
        self.token = nn.Embedding(build.require_vocabulary().size, size)
        self.position = nn.Embedding(length, size) if config.positions == "learned" else None
        self.segment = nn.Embedding(config.segments, size) if config.segments else None
        self.norm = layer_norm(config, size)
        self.dropout = Dropout(config.dropout)
        self.project = nn.Linear(size, width) if size != width else nn.Identity()

    def forward(self, inputs: Mapping[str, Tensor], change: Tensor | None) -> Tensor:
        """Return the embedded inputs, [B, T, D]. change: [B, T, E], added before the norm."""
        x = self.token(inputs["tokens"])  # [B, T, E]
        if self.position is not None:
            x = x + self.position.weight[: x.shape[1]]
        if self.segment is not None:
            segments = inputs.get("segments")
            x = x + (self.segment.weight[0] if segments is None else self.segment(segments))
        if change is not None:
            x = x + change
        return self.project(self.dropout(self.norm(x)))  # [B, T, D]


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropped: float
) -> Tensor:
    """Return softmax(query keyᵀ / √d + bias) value, with dropout of the probabilities, [B, heads, T, d].

    query, key, value: [B, heads, T, d]. bias: numbers to add, or bool, False for keys that are not attended to; it is
    broadcast to [B, heads, T, T]. dropped: probability of dropout.
    """
    if not dropped or query.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropped)
    # with dropout on a CPU, torch's kernel is not faster
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None and bias.dtype == torch.bool:
        scores = scores.masked_fill(~bias, torch.finfo(scores.dtype).min)
    elif bias is not None:
        scores = scores + bias
    return dropout(scores.softmax(-1), dropped) @ value


class Layer(nn.Module):
    """One Transformer layer: self-attention, then a feed-forward network, with post- or pre-LN."""

    def __init__(self, config: Bert.Config, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.pre = heads, config.norm == "pre"
        inner = config.inner or 4 * width
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = layer_norm(config, width)
        self.inner = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)
        self.output_norm = layer_norm(config, width)
        self.attention_dropout = Dropout(config.attention_dropout)
        self.dropout = Dropout(config.dropout)

    def attend(self, x: Tensor, bias: Tensor | None, first: bool = False) -> Tensor:
        """Return the output of self-attention, [B, T, D], or of the first position alone, [B, 1, D]."""
        B, T, D = x.shape
        if first:
            query, key, value = self._first_query(x)
        else:
            packed = self.query_key_value(x).view(B, T, 3, self.heads, D // self.heads)
            query, key, value = packed.permute(2, 0, 3, 1, 4)  # each [B, heads, T, d]
        dropped = self.attention_dropout.p if self.training else 0.0
        bias = bias.to(query.dtype) if bias is not None and bias.dtype != torch.bool else bias
        if bias is not None and bias.shape[2] > query.shape[2]:
            bias = bias[:, :, : query.shape[2]]
        mixed = attention(query, key, value, bias, dropped)
        return self.attention_output(mixed.transpose(1, 2).flatten(2))  # [B, T, D]

    def _first_query(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query of the first position, [B, heads, 1, d], and all keys and values, [B, heads, T, d]."""
        B, T, D = x.shape
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = F.linear(x[:, :1], weight[:D], bias[:D]).view(B, 1, self.heads, -1)
        packed = F.linear(x, weight[D:], bias[D:]).view(B, T, 2, self.heads, -1)
        key, value = packed.permute(2, 0, 3, 1, 4)
        return query.transpose(1, 2), key, value

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the output of the feed-forward network, [B, T, D]."""
        return self.output(F.gelu(self.inner(x)))

    def forward(self, x: Tensor, bias: Tensor | None, first: bool = False) -> Tensor:
        """Return the output of the layer, [B, T, D], or of the first position alone. bias: as of `attention`."""
        kept = x[:, :1] if first else x
        if self.pre:
            x = kept + self.dropout(self.attend(self.attention_norm(x), bias, first))
            return x + self.dropout(self.feed_forward(self.output_norm(x)))
        x = self.attention_norm(kept + self.dropout(self.attend(x, bias, first)))
        return self.output_norm(x + self.dropout(self.feed_forward(x)))
