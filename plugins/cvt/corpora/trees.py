"""The best dependency tree for given scores of arcs: a maximum spanning arborescence (Chu and Liu 1965, Edmonds 1967).

Most sentences of a trained parser need no search: the best head of every word, taken alone, already makes a tree, and then no
tree is better. That is found for a whole batch in a few tensor operations. The others are solved one by one, in O(T^2): walk
from a word to its best head and on; where the walk meets itself, the cycle becomes one node, and an arc into it is worth as much
as it has more than the arc of the cycle that it replaces; in the end the cycles are opened where they are entered.

Exactly one word hangs from ROOT if a tree with one arc from ROOT is better than all with more. One may take a large penalty off
these arcs, but then the scores drown in it. Here weights are pairs, compared by the first and then by the second: (minus the
penalties, score), which complex numbers are for numpy: it orders them by real and then by imaginary parts. Penalties are whole
numbers, so that nothing is rounded off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BARRED = complex(-np.inf, 0.0)  # a weight for arcs that are not there, whatever the tree
HUGE = 1e150  # scores farther from 0 count as this one, so that all sums are finite


@torch.no_grad()
def decode(scores: Tensor, lengths: Tensor, single_root: bool = True) -> Tensor:
    """The heads of the best tree of each sentence, int64 [B, T]; 0 is ROOT, and stands in the padding.

    scores: [B, T+1, T+1], of head h for dependent d at [b, d, h]; what row 0, the diagonal and the padding hold is never looked
    at. -inf (or NaN) bars an arc: a tree has as few of these as can be, and none if there is such a tree.
    lengths: how many words each sentence has, [B], from 0 to T. single_root: exactly one word hangs from ROOT.
    """
    batch, size = scores.shape[0], scores.shape[-1]
    if scores.dim() != 3 or scores.shape[1] != size or size < 1 or lengths.shape != (batch,):
        raise ValueError(
            f"scores are {list(scores.shape)} and lengths {list(lengths.shape)}; expected [B, T+1, T+1] and [B]"
        )
    if batch == 0 or size == 1:
        return torch.zeros(batch, size - 1, dtype=torch.int64, device=scores.device)
    lengths = lengths.to(scores.device)
    if bool(((lengths < 0) | (lengths >= size)).any()):
        raise ValueError(
            f"lengths run from {int(lengths.min())} to {int(lengths.max())}; expected 0 to {size - 1}"
        )
    heads = best_heads(scores, lengths)  # [B, T+1]
    done = are_trees(heads)
    if single_root:
        words = torch.arange(size, device=scores.device) <= lengths[:, None]
        done &= ((heads == 0) & words).sum(1) <= 2  # ROOT's own, and one word
    left = (~done).nonzero().squeeze(1)
    if len(left):
        solved = np.zeros((len(left), size), dtype=np.int64)
        sentences = scores[left].detach().to("cpu", torch.float64).numpy()
        for row, sentence, length in zip(solved, sentences, lengths[left].tolist()):
            row[: length + 1] = arborescence(
                weights(sentence[: length + 1, : length + 1], single_root)
            )
        heads[left] = torch.from_numpy(solved).to(heads.device)
    return heads[:, 1:]


def best_heads(scores: Tensor, lengths: Tensor) -> Tensor:
    """The best head of every word, whatever the others': int64 [B, T+1], 0 for ROOT itself and in the padding."""
    size = scores.shape[-1]
    place = torch.arange(size, device=scores.device)
    words = place <= lengths[:, None]  # [B, T+1], with ROOT
    allowed = words[:, None, :] & (place[:, None] != place)  # [B, T+1, T+1]
    scores = scores.masked_fill(~allowed | scores.isnan(), -torch.inf)
    best, heads = scores.max(-1)
    return heads.masked_fill(~words | (best == -torch.inf), 0).index_fill(1, place[:1], 0)


def are_trees(heads: Tensor) -> Tensor:
    """Whether all words come to ROOT along their heads, bool [B]; heads [B, T+1], that of ROOT is 0. The steps double."""
    steps = 1
    while steps < heads.shape[1]:
        heads, steps = heads.gather(1, heads), 2 * steps
    return (heads == 0).all(1)


def weights(scores: np.ndarray, single_root: bool) -> np.ndarray:
    """(minus penalties, score) of every arc as complex numbers; float64 [n+1, n+1]. One arc from ROOT costs more than n barred
    ones, since there are always trees with one root."""
    barred = np.isneginf(scores) | np.isnan(scores)
    penalties = barred.astype(np.float64)
    if single_root:
        penalties[:, 0] += len(scores)
    found = np.empty(scores.shape, dtype=np.complex128)
    found.real, found.imag = -penalties, np.where(barred, 0.0, scores.clip(-HUGE, HUGE))
    np.fill_diagonal(found, BARRED)
    return found


def arborescence(weight: np.ndarray) -> np.ndarray:
    """The heads of the spanning tree from node 0 whose arcs weigh most, int64 [n+1], 0 for node 0; complex weight [n+1, n+1] of
    head h for dependent d at [d, h], which is overwritten."""
    size = len(weight)
    every = np.arange(size)
    arc = (
        every[:, None] * size + every
    )  # which arc between words an arc between nodes stands for, d * (n+1) + h
    node = (
        every.copy()
    )  # the node that each word is part of; a node is called after one of its words
    into = np.zeros(size, dtype=np.int64)  # for each node on the walk, the arc that leads to it,
    worth = np.zeros(size, dtype=np.complex128)  # and its weight
    finished = np.zeros(size, dtype=bool)
    finished[0] = True
    cycles: list[
        tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    ] = []  # words, the node of each; nodes, the arc into each
    for start in range(1, size):
        walk: list[int] = []
        at = int(node[start])
        while not finished[at]:
            if at in walk:
                turn = walk.index(at)
                cycle = np.array(walk[turn:])
                del walk[turn:]
                among = np.zeros(size, dtype=bool)
                among[cycle] = True
                words = among[node].nonzero()[0]
                cycles.append((words, node[words], cycle, into[cycle]))
                _merge(weight, arc, cycle, worth[cycle])
                node[words] = at
            walk.append(at)
            head = int(weight[at].argmax())
            into[at], worth[at] = arc[at, head], weight[at, head]
            at = int(node[head])
        finished[walk] = True
    heads = np.full(size, -1)
    kept = into[node[1:]]
    heads[kept // size] = kept % size
    for words, nodes, cycle, arcs in reversed(
        cycles
    ):  # the outermost first: one word of each has its head by now, from outside
        entered = nodes[heads[words] >= 0]
        kept = arcs[cycle != entered]
        heads[kept // size] = kept % size
    heads[0] = 0
    return heads


def _merge(weight: np.ndarray, arc: np.ndarray, cycle: np.ndarray, worth: np.ndarray) -> None:
    """Makes the first node of a cycle stand for all of it, in place; worth: of the arc of the cycle into each node."""
    first, every = cycle[0], np.arange(len(weight))
    gains = weight[cycle] - worth[:, None]  # of an arc from outside that replaces one of the cycle
    best = gains.argmax(0)
    weight[first], arc[first] = gains[best, every], arc[cycle[best], every]
    best = cycle[weight[:, cycle].argmax(1)]
    weight[:, first], arc[:, first] = weight[every, best], arc[every, best]
    weight[:, cycle[1:]] = BARRED
    weight[first, first] = BARRED
