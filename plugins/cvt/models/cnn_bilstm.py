"""Words and their characters through two bidirectional LSTMs.

Clark et al. 2018, "Semi-Supervised Sequence Modeling with Cross-View Training", EMNLP, section 3.1:

    c_t  = max over positions of ReLU(convolutions of widths 2, 3, 4 over the characters of word t)
    x_t  = v_t + c_t                                v: word vectors; or their concatenation, as in the released code
    h1_t = [LSTM>(x)_t ; LSTM<(x)_t]     h2_t = [LSTM>(h1)_t ; LSTM<(h1)_t]   each direction projected (Sak et al. 2014)

With `task.pretrained`, x_t is followed by the mixed layers of a frozen encoder (ELMo; see pretrained.py). They have
read the whole sentence, so no state is restricted to a part of it then (`unrestricted`).

The features are [h1_t ; h2_t]. The states are the four directions: `forward_1` of a position has read the words up
to it, `backward_1` the words from it on. The LSTMs of layer 2 read both directions of layer 1, so their states have
read everything.

The backward direction reads the reversed sequence. Each sequence is reversed within its length, so padding reaches
no word, and sequences need no packing.
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
from fwk_plugins.cvt.corpora.examples import UNLABELLED
from fwk_plugins.cvt.corpora.vectors import WordVocabulary
from fwk_plugins.cvt.models.bilstm import DIRECTIONS, BiLSTM, dropped
from fwk_plugins.cvt.models.pretrained import MixedLayers

CHARACTERS = 257  # the bytes from 1, and 0 for no character
DEVIATION = 0.1  # standard deviation of random word vectors


class CharacterCNN(nn.Module):
    """Convolutions over the characters of words, int64 [..., W] -> [..., filters x widths].

    Characters are bytes of UTF-8 + 1, and 0 where a word has ended.
    """

    def __init__(self, size: int, widths: Sequence[int], filters: int) -> None:
        super().__init__()
        self.table = nn.Embedding(CHARACTERS, size, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(size, filters, width) for width in widths)
        self.widest, self.width = max(widths), filters * len(widths)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the representations of words; words that occur several times are computed once."""
        flat = characters.flatten(0, -2)  # [N, W]
        distinct, index = flat, None  # [M, W], [N]
        if flat.shape[0] > 1:
            distinct, index = flat.unique(dim=0, return_inverse=True)
        padded = F.pad(distinct, (0, self.widest - 1))
        x = self.table(padded).transpose(1, 2)  # [M, size, W + widest - 1]
        pooled = []
        for convolution in self.convolutions:
            # a window may reach beyond the end of a word, but not begin there: a word is then the same in any batch
            windows = F.relu(convolution(x))[..., : distinct.shape[1]]  # [M, filters, W]
            pooled.append(windows.masked_fill(distinct[:, None] == 0, 0.0).amax(2))
        words = torch.cat(pooled, 1)  # [M, width]
        if index is not None:
            words = words[index]  # [N, width]
        return words.view(*characters.shape[:-1], self.width)


class WordVectors(nn.Embedding):
    """Word vectors, int64 [B, T] -> [B, T, E].

    Words with a vector in a file begin with it, or keep it for good; the vectors of other words begin at random, with
    the same root mean square.
    """

    given: Tensor  # float32 [V, E], the vectors that are kept
    has_given: Tensor  # bool [V]

    def __init__(self, config: CnnBiLSTM.Config, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary.size, config.words)
        nn.init.normal_(self.weight, std=DEVIATION)
        vectors, width = None, 0
        if isinstance(vocabulary, WordVocabulary):
            vectors, width = vocabulary.vectors, vocabulary.width
        self.keeps_given = width > 0 and not config.train_vectors
        self._check(config, width)
        if self.keeps_given:  # part of checkpoints, so that a trained model needs no file
            self.register_buffer("given", torch.zeros(vocabulary.size, config.words))
            self.register_buffer("has_given", torch.zeros(vocabulary.size, dtype=torch.bool))
        if width and vectors is not None:
            self._begin_with(vectors)

    @staticmethod
    def _check(config: CnnBiLSTM.Config, width: int) -> None:
        if width not in (0, config.words):
            raise ConfigError(
                "model.words",
                f"is {config.words}, and the vectors of task.vectors have {width} numbers; expected "
                f"model.words={width}",
            )
        if not width and not config.train_vectors:
            raise ConfigError(
                "model.train_vectors",
                "false keeps the vectors of a file, but the task has no file; name it with task.vectors",
            )

    @torch.no_grad()
    def _begin_with(self, vectors: Tensor) -> None:
        """Take over vectors [V, E], NaN for words without one."""
        has_vector = ~vectors.isnan().any(1)  # [V]
        if has_vector.any():
            self.weight.mul_(vectors[has_vector].square().mean().sqrt() / DEVIATION)
        if self.keeps_given:
            self.given[has_vector], self.has_given[:] = vectors[has_vector], has_vector
        else:
            self.weight[has_vector] = vectors[has_vector]

    def forward(self, words: Tensor) -> Tensor:
        vectors = super().forward(words)
        if not self.keeps_given:
            return vectors
        return torch.where(self.has_given[words][..., None], self.given[words], vectors)


@register("model", "cnn_bilstm")
class CnnBiLSTM(Encoder["CnnBiLSTM.Config"]):
    """Word vectors and a character CNN under two bidirectional LSTM layers, with a state for each direction."""

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
            "train the vectors of task.vectors, too; false: they are kept, and only those of other words are trained",
        )
        characters: int = option(
            16, "width of the character vectors (paper: 50)", low=1, high=10_000
        )
        filters: int = option(32, "filters of each width (paper: 100)", low=1, high=100_000)
        widths: tuple[int, ...] = option((2, 3, 4), "widths of the character convolutions")
        combine: Literal["sum", "concatenate"] = option(
            "sum",
            "how word and character vectors combine: sum (the paper's text; characters are projected if widths differ) "
            "or concatenate (the released code)",
        )
        dropout: float = option(
            0.5,
            "dropout of word representations and LSTM outputs on labelled sequences",
            low=0,
            high=1,
        )
        unlabelled_dropout: float = option(
            0.2,
            "the same on unlabelled sequences (the released code; its 0.8 is the share that is kept, which the paper's "
            "table calls dropout)",
            low=0,
            high=1,
        )
        pretrained_dropout: float = option(
            0.5,
            "dropout of the mixed layers of task.pretrained, on all sequences (ELMo: 0.5)",
            low=0,
            high=1,
        )

        def __post_init__(self) -> None:
            if self.projection is not None and self.projection >= self.width:
                raise ConfigError(
                    "projection",
                    f"expected less than width, {self.width}, or null for no projection, got {self.projection}",
                )
            if not self.widths or min(self.widths) < 1:
                raise ConfigError(
                    "widths", f"expected widths of at least 1, got {list(self.widths)}"
                )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        if build.vocabulary is None:
            raise ConfigError("model", "'cnn_bilstm' reads words, and this task has no vocabulary")
        # the order of these parts decides their initial weights
        self.token = WordVectors(config, build.vocabulary)
        below = config.words + self._add_spelling(config, build)
        self.mixed = self._mixed_layers(build)
        if self.mixed is not None:
            below += self.mixed.width
        side = config.projection or config.width
        self.layers = nn.ModuleList(
            BiLSTM(size, config.width, config.projection or 0) for size in (below, 2 * side)
        )
        self.side, self.width = side, 4 * side
        self.unrestricted = self.mixed is not None

    def _add_spelling(self, config: Config, build: BuildContext) -> int:
        """Add the character CNN if the task has characters; return by how much it widens a word."""
        self.spelling = None
        if "characters" not in build.inputs:
            return 0
        self.spelling = CharacterCNN(config.characters, config.widths, config.filters)
        if config.combine == "concatenate":
            return self.spelling.width
        same_width = self.spelling.width == config.words
        self.spelled = nn.Identity() if same_width else nn.Linear(self.spelling.width, config.words)
        return 0

    @staticmethod
    def _mixed_layers(build: BuildContext) -> MixedLayers | None:
        if not isinstance(build.vocabulary, WordVocabulary) or build.vocabulary.pretrained is None:
            return None
        sets = [name for name in build.sources if name != UNLABELLED]
        return MixedLayers(build.vocabulary.pretrained, build.inputs, build.length, len(sets))

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        """Return features [B, T, 4 side] and states [B, T, side]."""
        rate = self.dropout_rates(inputs)
        x = dropped(self._words(inputs, embedding_change), rate)  # [B, T, below]
        if self.mixed is not None:
            mixed = self.mixed(inputs, mask)
            mixed = dropout(mixed, self.config.pretrained_dropout, self.training)
            x = torch.cat([x, mixed], -1)

        lengths = None if mask is None else mask.sum(1)  # [B]
        outputs: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers, start=1):
            sides = layer(x, lengths, rate)  # [B, T, side] each
            for direction, side in zip(DIRECTIONS, sides):
                outputs[f"{direction}_{number}"] = side
            x = torch.cat(sides, -1)
        features = torch.cat([outputs[name] for name in self.state_names()], -1)
        return Encoded(features=features, states={name: outputs[name] for name in states})

    def _words(self, inputs: Mapping[str, Tensor], embedding_change: Tensor | None) -> Tensor:
        """Return word vectors combined with spelling, [B, T, E]."""
        x = self.token(inputs["tokens"])
        if embedding_change is not None:
            x = x + embedding_change
        if self.spelling is None or "characters" not in inputs:
            return x
        spelling = self.spelling(inputs["characters"])
        if self.config.combine == "concatenate":
            return torch.cat([x, spelling], -1)
        return x + self.spelled(spelling)

    def dropout_rates(self, inputs: Mapping[str, Tensor]) -> Tensor | float:
        """Return the dropout rate of each sequence, [B, 1, 1], or one for all of them.

        Unlabelled sequences have a rate of their own.
        """
        config = self.config
        if not self.training or not (config.dropout or config.unlabelled_dropout):
            return 0.0
        if "unlabelled" not in inputs:
            return config.dropout
        unlabelled = inputs["unlabelled"].view(-1, 1, 1).to(self.token.weight.dtype)
        return config.dropout + (config.unlabelled_dropout - config.dropout) * unlabelled

    def state_names(self) -> tuple[str, ...]:
        return tuple(f"{direction}_{number}" for number in (1, 2) for direction in DIRECTIONS)

    def state_width(self, name: str) -> int:
        return self.side

    def embedding(self) -> nn.Embedding:
        return self.token

    def parts(self) -> dict[str, str]:
        parts = {"embedding": "token", "layers": "layers"}
        return parts if self.spelling is None else {**parts, "characters": "spelling"}
