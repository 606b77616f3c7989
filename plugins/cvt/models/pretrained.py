"""The frozen encoder of a trained run, read by a model of words.

It reads its own words and characters, or the pieces of its tokenizer.

A scalar mix (Peters et al. 2018, "Deep contextualized word representations", NAACL, equation 1) combines its
layers, with separate parameters for each labelled set k:

    mix_k = gamma_k * sum_j softmax(s_k)_j h_j

gamma_k, s_k: `ScalarMix.gamma` [S], `ScalarMix.scalars` [S, J]; they begin at 1 and 0. h_j: layers of the encoder,
see `layers`. A sentence without labels belongs to no set; it takes the mean of all mixes, and each of them learns
from it. For a raw text, each label is predicted with the mix of the set that has the label.

Deviations: no layer norm of h_j, and no penalty on s_k besides the optimizer's weight decay, which pulls the mix
towards the plain mean. Of a bidirectional LSTM the two layers are mixed; its embedded input, which is narrower, is
not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

import fwk
from fwk import Encoded, Encoder, Task
from fwk.data.tokenizers import Tokenizer
from fwk.errors import CheckpointError, ConfigError
from fwk_plugins.cvt.corpora.examples import LABELLED_SET, NO_SET

PREFIX = "pretrained_"  # of the inputs that the frozen encoder reads
PIECES = PREFIX + "pieces"
DEFAULT_WINDOW = 512  # pieces in one sequence, where neither the encoder nor its task has a limit


def load_pretrained(run: str) -> Any:  # the class of loaded runs is not public
    """Return the loaded run or checkpoint. Raises ConfigError where neither exists."""
    try:
        return fwk.load(run)
    except CheckpointError as error:
        raise ConfigError("task.pretrained", str(error)) from None


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# -- its inputs --------------------------------------------------------------------------------------------------------


class WordInputs:
    """Inputs of an encoder of words: sentences as the task of its run encodes them."""

    def __init__(self, task: Task[Any], encode: Callable[[Sequence[str]], object]) -> None:
        """Take the task of the run; `encode` returns its example of a sentence."""
        self.task, self.encode = task, encode

    def inputs(self, examples: Sequence[object]) -> dict[str, Tensor]:
        """Return the inputs of a batch of that task, each [B, ...], under their names after `PREFIX`."""
        draws, sources = np.arange(len(examples)), np.full(len(examples), NO_SET)
        batch = self.task.collate(examples, draws, sources)
        return {PREFIX + name: value for name, value in batch.inputs.items()}

    def shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        return {
            PREFIX + name: (length, *shape[1:]) if shape else ()
            for name, shape in self.task.inputs().items()
        }


class PieceInputs:
    """Inputs of an encoder of pieces: each word is tokenized alone into at most `most` pieces, and its rest is dropped.

    A piece is its id + 1; 0 stands for no piece.
    """

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self._pieces_of: dict[str, list[int]] = {}

    def encode(self, words: Sequence[str]) -> np.ndarray:
        """Return the pieces of a sentence, int32 [n, P]."""
        by_word = [self._tokenized(word) for word in words]
        pieces = np.zeros((len(words), max(map(len, by_word))), dtype=np.int32)
        for number, ids in enumerate(by_word):
            pieces[number, : len(ids)] = ids
        return pieces

    def _tokenized(self, word: str) -> list[int]:
        if word not in self._pieces_of:
            ids = self.tokenizer.encode(word)[: self.most]
            if not len(ids):  # every word has a piece
                ids = [max(self.tokenizer.unk, 0)]
            self._pieces_of[word] = [index + 1 for index in ids]
        return self._pieces_of[word]

    def inputs(self, examples: Sequence[Any]) -> dict[str, Tensor]:  # arrays, as `encode` made them
        """Return `pretrained_pieces`, int64 [B, T, P]."""
        largest = np.max([example.shape for example in examples], axis=0)
        pieces = np.zeros((len(examples), *largest), dtype=np.int64)
        for row, example in enumerate(examples):
            pieces[row, : example.shape[0], : example.shape[1]] = example
        return {PIECES: torch.from_numpy(pieces)}

    def shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        return {PIECES: (length, self.most)}


class PieceSequences(NamedTuple):
    """Pieces of words, laid out as sequences of an encoder."""

    tokens: Tensor  # int64 [R, L]
    mask: Tensor  # bool [R, L]
    where: Tensor  # int64 [B, T], the position of each word among R x L


def lay_out(
    pieces: Tensor, window: int, before: Sequence[int], after: Sequence[int], last: bool = False
) -> PieceSequences:
    """Lay out the pieces of words, [B, T, P] (ids + 1, 0: none), one sequence per sentence.

    A sentence of more than `window` pieces is cut into several sequences, which are encoded separately. Every sequence
    stands between the ids `before` and `after`. The position of a word is that of its first piece, or of its `last`.
    """
    B, T, P = pieces.shape
    is_piece = pieces.flatten(1) > 0  # [B, TP]
    place = is_piece.cumsum(1) - 1  # [B, TP], among the pieces of the sentence
    sequences = ((is_piece.sum(1) + window - 1) // window).clamp(min=1)  # [B]
    row = (sequences.cumsum(0) - sequences)[:, None] + place // window  # [B, TP]
    column = len(before) + place % window
    R = int(sequences.sum())
    sizes = torch.bincount(row[is_piece], minlength=R)  # [R]
    frame = len(before) + len(after)
    L = frame + (int(sizes.max()) if R else 0)

    tokens = pieces.new_zeros(R, L)
    tokens[row[is_piece], column[is_piece]] = pieces.flatten(1)[is_piece] - 1
    for number, index in enumerate(before):
        tokens[:, number] = index
    for number, index in enumerate(after):
        tokens.scatter_(1, (len(before) + sizes + number)[:, None], index)
    mask = torch.arange(L, device=pieces.device) < (sizes + frame)[:, None]

    per_word = is_piece.view(B, T, P).sum(2)  # [B, T]
    offset = (per_word - 1).clamp(min=0) if last else torch.zeros_like(per_word)
    where = (row * L + column).view(B, T, P).gather(2, offset[..., None])[..., 0]
    return PieceSequences(tokens, mask, where.masked_fill(per_word == 0, 0))


# -- the encoder -------------------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """The main encoder of a run, always in evaluation mode and without gradient.

    The encoder is stored where torch does not look for sub-modules: optimizers, phases, weight averages, checkpoints
    and distributed wrappers do not see its weights, but they move between devices with the module.
    """

    def __init__(self, run: str, inputs: Mapping[str, object], length: int) -> None:
        """Load the encoder. inputs: by name, of the task that reads for it. length: of its longest sentence, 0: any.

        Raises ConfigError where the encoder cannot read sentences of that length.
        """
        super().__init__()
        loaded = load_pretrained(run)
        self._hidden: list[Encoder[Any]] = [loaded.model.requires_grad_(False).eval()]
        self.reads_pieces = PIECES in inputs
        if self.reads_pieces:
            unknown = max(loaded.tokenizer.unk, 0)
            framed = loaded.task.framed(np.array([unknown])).tolist()
            place = framed.index(unknown)
            self.before, self.after = framed[:place], framed[place + 1 :]
            limits = [limit for limit in (self.encoder.longest, loaded.task.length()) if limit]
            self.window = max(min(limits, default=DEFAULT_WINDOW) - len(framed) + 1, 1)
        elif 0 < self.encoder.longest < length:
            raise ConfigError(
                "task.length",
                f"is {length}, and the encoder of task.pretrained reads up to {self.encoder.longest} words",
            )

    @property
    def encoder(self) -> Encoder[Any]:
        return self._hidden[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.encoder._apply(fn)
        return super()._apply(fn, recurse)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        """Return features [B, T, D] and states of words.

        change: as `embedding_change` of an `Encoder`; the gradient reaches it. Raises ConfigError for a change of
        pieces.
        """
        with torch.no_grad() if change is None else nullcontext():
            if self.reads_pieces:
                return self._encode_pieces(inputs, mask, change, states)
            words = {
                name.removeprefix(PREFIX): value
                for name, value in inputs.items()
                if name.startswith(PREFIX)
            }
            return self.encoder(words, mask, change, states)

    def _encode_pieces(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        change: Tensor | None,
        states: Sequence[str],
    ) -> Encoded:
        if change is not None:
            raise ConfigError(
                "task.pretrained",
                "this run reads pieces of words, whose vectors cannot be changed word by word; expected a run of words",
            )
        from_left = (
            self.encoder.direction == "left_to_right"
        )  # only the last piece has seen the word
        laid = lay_out(inputs[PIECES], self.window, self.before, self.after, last=from_left)
        encoded = self.encoder({"tokens": laid.tokens}, laid.mask, None, states)

        def of_words(x: Tensor) -> Tensor:
            x = x.flatten(0, 1)[laid.where]  # [B, T, D]
            return x if mask is None else x.masked_fill(~mask[..., None], 0.0)

        return Encoded(
            features=of_words(encoded.features),
            states={name: of_words(state) for name, state in encoded.states.items()},
        )


def layers(encoder: Encoder[Any]) -> list[tuple[str, ...]]:
    """Return the layers of an encoder from the lowest, each as the names of states to concatenate.

    States with the same number form one layer, every other state a layer of its own. Layers of another width than the
    last one are left out. () stands for the features of an encoder without states.
    """
    by_number: dict[str, list[str]] = {}
    for name in encoder.state_names():
        number = re.search(r"_(\d+)$", name)
        by_number.setdefault(number.group(1) if number else name, []).append(name)
    widths = [sum(map(encoder.state_width, names)) for names in by_number.values()]
    of_last_width = [
        tuple(names) for names, width in zip(by_number.values(), widths) if width == widths[-1]
    ]
    return of_last_width or [()]


class ScalarMix(nn.Module):
    """The mixes of S labelled sets, each over J layers."""

    def __init__(self, sets: int, layers: int) -> None:
        super().__init__()
        self.scalars = nn.Parameter(torch.zeros(sets, layers))
        self.gamma = nn.Parameter(torch.ones(sets))

    def forward(self, layers: Sequence[Tensor], sets: Tensor) -> Tensor:
        """Return the mix, [B, T, D]. layers: J times [B, T, D]. sets: int64 [B], from 1; 0: no set."""
        weights = self.gamma[:, None] * self.scalars.softmax(1)  # [S, J]
        weights = torch.cat([weights.mean(0, keepdim=True), weights])[sets]  # [B, J]
        terms = [weights[:, number, None, None] * layer for number, layer in enumerate(layers)]
        return cast(Tensor, sum(terms))


class MixedLayers(nn.Module):
    """A frozen encoder and the mix of its layers: inputs -> [B, T, `width`]."""

    def __init__(self, run: str, inputs: Mapping[str, object], length: int, sets: int) -> None:
        super().__init__()
        self.frozen = Frozen(run, inputs, length)
        encoder = self.frozen.encoder
        self.layers = layers(encoder)
        self.width = sum(map(encoder.state_width, self.layers[-1])) or encoder.width
        self.mix = ScalarMix(sets, len(self.layers))

    def forward(self, inputs: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        states = [name for names in self.layers for name in names]
        encoded = self.frozen(inputs, mask, None, states)
        by_layer = [
            torch.cat([encoded.states[name] for name in names], -1) if names else encoded.features
            for names in self.layers
        ]
        return self.mix(by_layer, inputs[LABELLED_SET])
