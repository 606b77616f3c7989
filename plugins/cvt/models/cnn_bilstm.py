"""Words and their characters through two bidirectional LSTMs (Clark et al. 2018, "Semi-Supervised Sequence Modeling with
Cross-View Training", EMNLP, section 3.1).

    c_t  = max over places of ReLU(convolutions of widths 2, 3, 4 over the characters of word t)
    x_t  = v_t + c_t                                             v: word vectors; or their concatenation, as the code has it
    h1_t = [LSTM>(x)_t ; LSTM<(x)_t]      h2_t = [LSTM>(h1)_t ; LSTM<(h1)_t]        each direction projected (Sak et al. 2014)

With `task.pretrained` x_t is followed by the mixed layers of a frozen encoder (ELMo; see pretrained.py), and each has read the whole
sentence: no state is restricted then (`unrestricted`).

features are [h1_t ; h2_t]. The states are the four directions: `forward_1` of a position has read the words up to it,
`backward_1` those from it on. The LSTMs of layer 2 read both directions of layer 1, so a position of them has read everything.

Reading towards the beginning is reading the reversed sequence: each is turned around within its own length, so what
stands in the padding reaches no word, and no sequence is packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Encoded, Encoder, Vocabulary, option, register
from fwk.errors import ConfigError
from fwk.nn.dropout import dropout
from fwk_plugins.cvt.corpora.vectors import WordVocabulary
from fwk_plugins.cvt.models.bilstm import DIRECTIONS, BiLSTM, dropped
from fwk_plugins.cvt.models.pretrained import UNLABELLED, MixedLayers

BYTES = 257  # and 0 for none


class CharacterCNN(nn.Module):
    """The characters of a word, int64 [..., W] with 0 for none, -> [..., filters x widths]. Characters are bytes of UTF-8."""

    def __init__(self, size: int, widths: Sequence[int], filters: int):
        super().__init__()
        self.table = nn.Embedding(BYTES, size, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(size, filters, width) for width in widths)
        self.widest, self.width = max(widths), filters * len(widths)

    def forward(self, characters: Tensor) -> Tensor:
        flat = characters.flatten(0, -2)  # [N, W]
        kinds, which = (
            flat.unique(dim=0, return_inverse=True) if flat.shape[0] > 1 else (flat, None)
        )  # a word recurs
        x = self.table(F.pad(kinds, (0, self.widest - 1))).transpose(
            1, 2
        )  # [M, size, W + widest - 1]
        pooled = []
        for convolution in self.convolutions:
            # a window may reach over the end of a word, but not begin there: a word is then the same in any batch
            places = F.relu(convolution(x))[..., : kinds.shape[1]]  # [M, filters, W]
            pooled.append(places.masked_fill(kinds[:, None] == 0, 0.0).amax(2))
        words = torch.cat(pooled, 1)  # [M, width]
        return (words if which is None else words[which]).view(*characters.shape[:-1], self.width)


class WordVectors(nn.Embedding):
    """Words int64 [B, T] -> [B, T, E]. Those with a vector in a file begin with it, or keep it; the others' are random, of
    the same deviation."""

    def __init__(self, config: CnnBiLSTM.Config, vocabulary: Vocabulary):
        super().__init__(vocabulary.size, config.words)
        nn.init.normal_(self.weight, std=0.1)
        width = vocabulary.width if isinstance(vocabulary, WordVocabulary) else 0
        self.kept = width > 0 and not config.train_vectors
        if width not in (0, config.words):
            raise ConfigError(
                "model.words",
                f"is {config.words}, and the vectors of task.vectors have {width} numbers; expected model.words={width}",
            )
        if not width and not config.train_vectors:
            raise ConfigError(
                "model.train_vectors",
                "false keeps the vectors of a file, and there is none; name one with task.vectors",
            )
        if self.kept:  # in checkpoints, so that a trained model needs no file
            self.register_buffer("given", torch.zeros(vocabulary.size, config.words))
            self.register_buffer("has_given", torch.zeros(vocabulary.size, dtype=torch.bool))
        if width and vocabulary.vectors is not None:
            self.begin(vocabulary.vectors)

    @torch.no_grad()
    def begin(self, vectors: Tensor) -> None:
        """vectors: [V, E], NaN for words without one."""
        there = ~vectors.isnan().any(1)  # [V]
        if there.any():
            self.weight.mul_(vectors[there].square().mean().sqrt() / 0.1)
        if self.kept:
            self.given[there], self.has_given[:] = vectors[there], there
        else:
            self.weight[there] = vectors[there]

    def forward(self, words: Tensor) -> Tensor:
        x = super().forward(words)
        return (
            torch.where(self.has_given[words][..., None], self.given[words], x) if self.kept else x
        )


@register("model", "cnn_bilstm")
class CnnBiLSTM(Encoder):
    """Word vectors and a character CNN under two bidirectional LSTM layers, each direction a state of its own."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = option(96, "hidden units of each LSTM (paper: 1024)", low=1, high=100_000)
        projection: int | None = option(
            None,
            "width of each direction's output (paper: 512; null: no projection, which is faster on CPUs)",
            low=1,
            high=100_000,
        )
        words: int = option(64, "width of the word vectors (paper: 300)", low=1, high=100_000)
        train_vectors: bool = option(
            True,
            "train the vectors of task.vectors too; false: they stay as they are, and the other words' are trained",
        )
        characters: int = option(
            16, "width of the character vectors (paper: 50)", low=1, high=10_000
        )
        filters: int = option(32, "filters of each width (paper: 100)", low=1, high=100_000)
        widths: tuple[int, ...] = option((2, 3, 4), "widths of the character convolutions")
        combine: Literal["sum", "concatenate"] = option(
            "sum",
            "word and character vectors: their sum (the paper's text), the latter projected where the widths differ, or both "
            "(the released code)",
        )
        dropout: float = option(
            0.5,
            "dropout of word representations and LSTM outputs on labelled sequences",
            low=0,
            high=1,
        )
        unlabelled_dropout: float = option(
            0.2,
            "the same on unlabelled ones (the released code; its 0.8 is a share that is kept, the paper's table calls it dropout)",
            low=0,
            high=1,
        )
        pretrained_dropout: float = option(
            0.5,
            "dropout of the mixed layers of task.pretrained, on all sequences (ELMo: 0.5)",
            low=0,
            high=1,
        )

        def __post_init__(self):
            if self.projection is not None and self.projection >= self.width:
                raise ConfigError(
                    "projection",
                    f"expected fewer than width, {self.width}, got {self.projection}; null: none",
                )
            if not self.widths or min(self.widths) < 1:
                raise ConfigError(
                    "widths", f"expected widths of at least 1, got {list(self.widths)}"
                )

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        if build.vocabulary is None:
            raise ConfigError("model", "'cnn_bilstm' reads words, and this task has no vocabulary")
        self.token = WordVectors(config, build.vocabulary)
        self.spelling = None  # without spelling in the task, words alone are read
        if "characters" in build.inputs:
            self.spelling = CharacterCNN(config.characters, config.widths, config.filters)
        below = config.words
        if self.spelling is not None and config.combine == "concatenate":
            below += self.spelling.width
        elif self.spelling is not None:
            self.spelled = (
                nn.Linear(self.spelling.width, config.words)
                if self.spelling.width != config.words
                else nn.Identity()
            )
        self.mixed = None
        if isinstance(build.vocabulary, WordVocabulary) and build.vocabulary.pretrained is not None:
            sets = [name for name in build.sources if name != UNLABELLED]
            self.mixed = MixedLayers(
                build.vocabulary.pretrained, build.inputs, build.length, len(sets)
            )
            below += self.mixed.width
        side = config.projection or config.width
        self.layers = nn.ModuleList(
            BiLSTM(size, config.width, config.projection or 0) for size in (below, 2 * side)
        )
        self.side, self.width = side, 4 * side
        self.unrestricted = self.mixed is not None

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        rate = self.rates(inputs)
        x = self.token(inputs["tokens"])  # [B, T, E]
        if embedding_change is not None:
            x = x + embedding_change
        if self.spelling is not None and "characters" in inputs:
            spelled = self.spelling(inputs["characters"])
            x = (
                torch.cat([x, spelled], -1)
                if self.config.combine == "concatenate"
                else x + self.spelled(spelled)
            )
        x = dropped(x, rate)
        if self.mixed is not None:
            x = torch.cat(
                [
                    x,
                    dropout(
                        self.mixed(inputs, mask), self.config.pretrained_dropout, self.training
                    ),
                ],
                -1,
            )
        lengths = None if mask is None else mask.sum(1)  # [B]
        found: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers, start=1):
            sides = layer(x, lengths, rate)  # [B, T, side] each
            found |= {f"{direction}_{number}": side for direction, side in zip(DIRECTIONS, sides)}
            x = torch.cat(sides, -1)
        features = torch.cat([found[name] for name in self.state_names()], -1)  # [B, T, 4 side]
        return Encoded(features=features, states={name: found[name] for name in states})

    def rates(self, inputs: Mapping[str, Tensor]) -> Tensor | float:
        """Of each sequence [B, 1, 1], or one for all: unlabelled sequences are dropped out less."""
        if not self.training or not (self.config.dropout or self.config.unlabelled_dropout):
            return 0.0
        if "unlabelled" not in inputs:
            return self.config.dropout
        one = inputs["unlabelled"].view(-1, 1, 1).to(self.token.weight.dtype)
        return self.config.dropout + (self.config.unlabelled_dropout - self.config.dropout) * one

    def state_names(self) -> tuple[str, ...]:
        return tuple(f"{direction}_{number}" for number in (1, 2) for direction in DIRECTIONS)

    def state_width(self, name: str) -> int:
        return self.side

    def embedding(self) -> nn.Embedding:
        return self.token

    def parts(self) -> dict[str, str]:
        return {
            "embedding": "token",
            "layers": "layers",
            **({"characters": "spelling"} if self.spelling is not None else {}),
        }
