"""The frozen encoder of a trained run, read by a model of words: its own words and characters, or the pieces of its tokenizer.

A scalar mix (Peters et al. 2018, "Deep contextualized word representations", NAACL, equation 1) of its layers, for each labelled
set k one of its own:

    mix_k = gamma_k * sum_j softmax(s_k)_j h_j

gamma_k, s_k: `ScalarMix.gamma` [S], `ScalarMix.scalars` [S, J]; they begin at 1 and 0. h_j: layers of the encoder, see `layers`.
A sentence without labels is of no set, and takes the mean of all mixes, from which each of them learns. Of a raw text each label
is predicted with the mix of the set that has the label.

Deviations: no layer norm of h_j, and no penalty on s_k but the optimizer's weight decay, which draws towards the plain mean. Of a
bidirectional LSTM the two layers are mixed; what it embeds, which is narrower, is not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import fwk
from fwk import Encoded, Encoder, Task
from fwk.data.tokenizers import Tokenizer
from fwk.errors import CheckpointError, ConfigError

UNLABELLED = "unlabelled"  # the source of sentences without labels
OWN = "pretrained_"  # begins the names of inputs that the pretrained encoder reads
PIECES = OWN + "pieces"
LABELLED_SET = (
    "labelled_set"  # input int64 [B]: from 1, in the order of `task.data`; 0: none of them
)
NO_SET = -1  # the source of an example that is of none


def load_pretrained(run: str) -> Any:
    """What `fwk.load` returns. ConfigError where there is no such run."""
    try:
        return fwk.load(run)
    except CheckpointError as error:
        raise ConfigError("task.pretrained", str(error)) from None


def weights_digest(module: nn.Module) -> str:
    """sha256 of its parameters and buffers."""
    hashed = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        hashed.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


# -- what it reads -----------------------------------------------------------------------------------------------------


class OwnWords:
    """Sentences as another task of words encodes them. encode: words -> one of its examples."""

    def __init__(self, task: Task, encode: Callable[[Sequence[str]], Any]):
        self.task, self.encode = task, encode

    def inputs(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Those of the other task's batch, each [B, ...], under their names behind `OWN`."""
        draws = np.arange(len(examples))
        return {
            OWN + name: value
            for name, value in self.task.collate(
                examples, draws, np.full(len(examples), NO_SET)
            ).inputs.items()
        }

    def shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        return {
            OWN + name: (length, *shape[1:]) if shape else ()
            for name, shape in self.task.inputs().items()
        }


class OwnPieces:
    """Words cut by a tokenizer, each by itself, into at most `most` pieces; the rest of a word is left out. A piece is its id
    from 1, and 0 none."""

    def __init__(self, tokenizer: Tokenizer, most: int):
        self.tokenizer, self.most = tokenizer, most
        self._known: dict[str, list[int]] = {}

    def encode(self, words: Sequence[str]) -> np.ndarray:
        """int32 [n, P]."""
        cut = [self._cut(word) for word in words]
        pieces = np.zeros((len(words), max(map(len, cut))), dtype=np.int32)
        for number, ids in enumerate(cut):
            pieces[number, : len(ids)] = ids
        return pieces

    def _cut(self, word: str) -> list[int]:
        if word not in self._known:
            ids = self.tokenizer.encode(word)[: self.most] or [
                max(self.tokenizer.unk, 0)
            ]  # every word has a piece
            self._known[word] = [index + 1 for index in ids]
        return self._known[word]

    def inputs(self, examples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`pretrained_pieces`, int64 [B, T, P]."""
        pieces = np.zeros(
            (len(examples), *np.max([one.shape for one in examples], axis=0)), dtype=np.int64
        )
        for row, one in enumerate(examples):
            pieces[row, : one.shape[0], : one.shape[1]] = one
        return {PIECES: torch.from_numpy(pieces)}

    def shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        return {PIECES: (length, self.most)}


class LaidOut(NamedTuple):
    """Pieces as sequences. tokens: int64 [R, L]. mask: bool [R, L]. where: int64 [B, T], the place of each word among [R L]."""

    tokens: Tensor
    mask: Tensor
    where: Tensor


def lay_out(
    pieces: Tensor, window: int, before: Sequence[int], after: Sequence[int], last: bool = False
) -> LaidOut:
    """Pieces [B, T, P] (ids from 1, 0: none) -> a sequence for each sentence; those of more than `window` pieces are cut into
    several of as many, each read by itself. Every sequence has `before` and `after` around it. A word is where its first piece
    is, or its `last`."""
    B, T, P = pieces.shape
    there = pieces.flatten(1) > 0  # [B, TP]
    place = there.cumsum(1) - 1  # [B, TP], among the pieces of its sentence
    rows = ((there.sum(1) + window - 1) // window).clamp(min=1)  # [B]
    row = (rows.cumsum(0) - rows)[:, None] + place // window  # [B, TP]
    column = len(before) + place % window
    R = int(rows.sum())
    sizes = torch.bincount(row[there], minlength=R)  # [R]
    frame = len(before) + len(after)
    L = frame + (int(sizes.max()) if R else 0)
    tokens = pieces.new_zeros(R, L)
    tokens[row[there], column[there]] = pieces.flatten(1)[there] - 1
    for number, index in enumerate(before):
        tokens[:, number] = index
    for number, index in enumerate(after):
        tokens.scatter_(1, (len(before) + sizes + number)[:, None], index)
    of_word = there.view(B, T, P).sum(2)  # [B, T]
    offset = (of_word - 1).clamp(min=0)[..., None] if last else torch.zeros_like(of_word)[..., None]
    where = (row * L + column).view(B, T, P).gather(2, offset)[..., 0].masked_fill(of_word == 0, 0)
    return LaidOut(tokens, torch.arange(L, device=pieces.device) < (sizes + frame)[:, None], where)


# -- the encoder -------------------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """The main encoder of a run: always in evaluation mode, without gradient.

    It is kept where torch does not look for sub-modules: neither the optimizer, a phase, an average, a checkpoint nor a
    distributed wrapper knows of its weights, and they move with the module all the same.
    """

    def __init__(self, run: str, names: Mapping[str, Any], length: int):
        """names: inputs of the task that reads for it. length: words of its longest sentence, 0: unbounded."""
        super().__init__()
        loaded = load_pretrained(run)
        self._held: list[Encoder] = [loaded.model.requires_grad_(False).eval()]
        self.pieces = PIECES in names
        if self.pieces:
            unknown = max(loaded.tokenizer.unk, 0)
            framed = loaded.task.framed(np.array([unknown])).tolist()
            place = framed.index(unknown)
            self.before, self.after = framed[:place], framed[place + 1 :]
            limits = [limit for limit in (self.encoder.longest, loaded.task.length()) if limit]
            self.window = max(min(limits, default=512) - len(framed) + 1, 1)
        elif 0 < self.encoder.longest < length:
            raise ConfigError(
                "task.length",
                f"is {length}, and the encoder of task.pretrained reads up to {self.encoder.longest} words",
            )

    @property
    def encoder(self) -> Encoder:
        return self._held[0]

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
        """Features [B, T, D] and states of words. change: as of an `Encoder`; a gradient goes through to it."""
        with torch.no_grad() if change is None else nullcontext():
            if not self.pieces:
                own = {
                    name.removeprefix(OWN): value
                    for name, value in inputs.items()
                    if name.startswith(OWN)
                }
                return self.encoder(own, mask, change, states)
            if change is not None:
                raise ConfigError(
                    "task.pretrained",
                    "this run reads pieces of words, whose vectors cannot be changed word by word; "
                    "expected a run of words",
                )
            laid = lay_out(
                inputs[PIECES],
                self.window,
                self.before,
                self.after,
                self.encoder.direction == "left_to_right",
            )
            found = self.encoder({"tokens": laid.tokens}, laid.mask, None, states)

            def of_words(x: Tensor) -> Tensor:
                x = x.flatten(0, 1)[laid.where]  # [B, T, D]
                return x if mask is None else x.masked_fill(~mask[..., None], 0.0)

            return Encoded(
                features=of_words(found.features),
                states={name: of_words(state) for name, state in found.states.items()},
            )


def layers(encoder: Encoder) -> list[tuple[str, ...]]:
    """The layers of an encoder from below, as names of states that are joined: those of one number are one layer, others one
    each. The ones that are not as wide as the last are left out; () stands for the features of an encoder without states."""
    found: dict[str, list[str]] = {}
    for name in encoder.state_names():
        number = re.search(r"_(\d+)$", name)
        found.setdefault(number.group(1) if number else name, []).append(name)
    widths = [sum(map(encoder.state_width, names)) for names in found.values()]
    return [
        tuple(names) for names, width in zip(found.values(), widths) if width == widths[-1]
    ] or [()]


class ScalarMix(nn.Module):
    """The mixes of S labelled sets of J layers."""

    def __init__(self, sets: int, layers: int):
        super().__init__()
        self.scalars = nn.Parameter(torch.zeros(sets, layers))
        self.gamma = nn.Parameter(torch.ones(sets))

    def forward(self, layers: Sequence[Tensor], sets: Tensor) -> Tensor:
        """J layers, each [B, T, D]; sets: int64 [B], from 1, 0: none of them -> [B, T, D]."""
        weights = self.gamma[:, None] * self.scalars.softmax(1)  # [S, J]
        weights = torch.cat([weights.mean(0, keepdim=True), weights])[sets]  # [B, J]
        return sum(weights[:, number, None, None] * layer for number, layer in enumerate(layers))


class MixedLayers(nn.Module):
    """A frozen encoder and the mix of its layers: inputs -> [B, T, `width`]."""

    def __init__(self, run: str, names: Mapping[str, Any], length: int, sets: int):
        super().__init__()
        self.frozen = Frozen(run, names, length)
        encoder = self.frozen.encoder
        self.layers = layers(encoder)
        self.width = sum(map(encoder.state_width, self.layers[-1])) or encoder.width
        self.mix = ScalarMix(sets, len(self.layers))

    def forward(self, inputs: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        encoded = self.frozen(inputs, mask, None, [name for names in self.layers for name in names])
        found = [
            torch.cat([encoded.states[name] for name in names], -1) if names else encoded.features
            for names in self.layers
        ]
        return self.mix(found, inputs[LABELLED_SET])
