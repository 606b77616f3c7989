"""The best dependency tree for given scores of arcs: a maximum spanning arborescence (Chu and Liu 1965, Edmonds 1967).

Most sentences of a trained parser need no search: if the best heads of all words, each chosen alone, form a tree, no
tree is better. That is checked for a whole batch in a few tensor operations. The other sentences are solved one by one
in O(T^2): walk from a word to its best head, and on from there. Where the walk meets itself, the cycle is contracted to
one node, and an arc into that node is worth its weight minus the weight of the cycle's arc that it replaces. In the end
each cycle is opened at the word where it is entered.

A tree in which exactly one word is attached to ROOT is better than every tree with more. Subtracting a large penalty
from arcs of ROOT would achieve that, but the scores would lose their digits. Therefore a weight is a pair (-penalties,
score), compared by the first number, then by the second. numpy orders complex numbers this way: by real part, then by
imaginary part. Penalties are whole numbers, so nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BARRED = complex(-np.inf, 0.0)  # the weight of an arc that no tree may contain
HUGE = 1e150  # scores are clipped to this magnitude, so that all sums are finite


def tree_fault(heads: Sequence[int]) -> tuple[int, str] | None:
    """Return the first word (from 1) where heads do not form a tree with one root, and the reason; None for a tree.

    heads: one number in 0..n per word, 0 for ROOT.
    """
    roots = [word for word, head in enumerate(heads, start=1) if head == 0]
    if len(roots) > 1:
        return roots[1], f"is attached to ROOT (0), as word {roots[0]} is; expected one root"

    attached = {0}  # nodes from which ROOT is reached
    for start in range(1, len(heads) + 1):
        word = start
        walk: list[int] = []
        while word not in attached and word not in walk:
            walk.append(word)
            word = heads[word - 1]
        if word in walk:
            cycle = [*walk[walk.index(word) :], word]
            return word, f"is its own ancestor ({' -> '.join(map(str, cycle))}); expected a tree"
        attached.update(walk)
    return None


@torch.no_grad()
def decode(scores: Tensor, lengths: Tensor, single_root: bool = True) -> Tensor:
    """Return the heads of the best tree of each sentence, int64 [B, T]; 0 is ROOT, and fills the padding.

    scores: [B, T+1, T+1], of head h for dependent d at [b, d, h]. Row 0, the diagonal and the padding are ignored. -inf
    or NaN bars an arc: a tree has as few barred arcs as possible.
    lengths: number of words of each sentence, [B], from 0 to T.
    single_root: attach exactly one word to ROOT.

    Raises ValueError for other shapes or lengths.
    """
    _check_shapes(scores, lengths)
    batch, size = scores.shape[0], scores.shape[-1]
    if batch == 0 or size == 1:
        return torch.zeros(batch, size - 1, dtype=torch.int64, device=scores.device)

    lengths = lengths.to(scores.device)
    heads = best_heads(scores, lengths)  # [B, T+1]
    solved = are_trees(heads)  # [B]
    if single_root:
        words = torch.arange(size, device=scores.device) <= lengths[:, None]
        solved &= ((heads == 0) & words).sum(1) <= 2  # ROOT itself, and one word
    unsolved = (~solved).nonzero().squeeze(1)
    if len(unsolved):
        trees = _search_trees(scores[unsolved], lengths[unsolved], single_root)
        heads[unsolved] = torch.from_numpy(trees).to(heads.device)
    return heads[:, 1:]


def _check_shapes(scores: Tensor, lengths: Tensor) -> None:
    batch, size = scores.shape[0], scores.shape[-1]
    if scores.dim() != 3 or scores.shape[1] != size or size < 1 or lengths.shape != (batch,):
        raise ValueError(
            f"scores are {list(scores.shape)} and lengths {list(lengths.shape)}; expected [B, T+1, T+1] and [B]"
        )
    if batch and size > 1 and bool(((lengths < 0) | (lengths >= size)).any()):
        raise ValueError(
            f"lengths run from {int(lengths.min())} to {int(lengths.max())}; expected 0 to {size - 1}"
        )


def _search_trees(scores: Tensor, lengths: Tensor, single_root: bool) -> np.ndarray:
    """Return the best trees of some sentences, int64 [B, T+1], one by one on the CPU."""
    trees = np.zeros(scores.shape[:2], dtype=np.int64)
    sentences = scores.detach().to("cpu", torch.float64).numpy()
    for tree, sentence, length in zip(trees, sentences, lengths.tolist()):
        nodes = length + 1
        tree[:nodes] = arborescence(arc_weights(sentence[:nodes, :nodes], single_root))
    return trees


def best_heads(scores: Tensor, lengths: Tensor) -> Tensor:
    """Return the best head of every word, regardless of the others: int64 [B, T+1], 0 for ROOT and in the padding."""
    size = scores.shape[-1]
    place = torch.arange(size, device=scores.device)
    words = place <= lengths[:, None]  # [B, T+1], ROOT included
    allowed = words[:, None, :] & (place[:, None] != place)  # [B, T+1, T+1]
    scores = scores.masked_fill(~allowed | scores.isnan(), -torch.inf)
    best, heads = scores.max(-1)
    return heads.masked_fill(~words | (best == -torch.inf), 0).index_fill(1, place[:1], 0)


def are_trees(heads: Tensor) -> Tensor:
    """Return whether every word reaches ROOT along heads, bool [B]. heads: [B, T+1], with 0 for ROOT itself."""
    steps = 1
    while steps < heads.shape[1]:  # the length of a step doubles
        heads, steps = heads.gather(1, heads), 2 * steps
    return (heads == 0).all(1)


def arc_weights(scores: np.ndarray, single_root: bool) -> np.ndarray:
    """Return (-penalties, score) of every arc as complex numbers. scores: float64 [n+1, n+1].

    An arc from ROOT costs more than n barred ones, because there is always a tree with one root.
    """
    barred = np.isneginf(scores) | np.isnan(scores)
    penalties = barred.astype(np.float64)
    if single_root:
        penalties[:, 0] += len(scores)
    weights = np.empty(scores.shape, dtype=np.complex128)
    weights.real, weights.imag = -penalties, np.where(barred, 0.0, scores.clip(-HUGE, HUGE))
    np.fill_diagonal(weights, BARRED)
    return weights


class _Cycle(NamedTuple):
    """A contracted cycle."""

    words: np.ndarray  # all words inside
    nodes_of_words: np.ndarray  # the node of the cycle that each word belonged to
    nodes: np.ndarray
    arcs: np.ndarray  # the cycle's arc into each node


def arborescence(weight: np.ndarray) -> np.ndarray:
    """Return the heads of the spanning tree from node 0 with the largest weight, int64 [n+1]; 0 for node 0.

    weight: complex [n+1, n+1], of head h for dependent d at [d, h]; it is overwritten.
    """
    size = len(weight)
    every = np.arange(size)
    arc = (
        every[:, None] * size + every
    )  # the arc between words, d * (n+1) + h, behind an arc between nodes
    node = (
        every.copy()
    )  # the node that each word belongs to; a node is called after one of its words
    into = np.zeros(size, dtype=np.int64)  # the arc into each node of a walk
    worth = np.zeros(size, dtype=np.complex128)  # and its weight
    finished = np.zeros(size, dtype=bool)
    finished[0] = True
    cycles: list[_Cycle] = []
    for start in range(1, size):
        walk: list[int] = []
        at = int(node[start])
        while not finished[at]:
            if at in walk:
                turn = walk.index(at)
                cycle = np.array(walk[turn:])
                del walk[turn:]
                words = np.isin(node, cycle).nonzero()[0]
                cycles.append(_Cycle(words, node[words], cycle, into[cycle]))
                _contract(weight, arc, cycle, worth[cycle])
                node[words] = at
            walk.append(at)
            head = int(weight[at].argmax())
            into[at], worth[at] = arc[at, head], weight[at, head]
            at = int(node[head])
        finished[walk] = True
    return _open_cycles(into[node[1:]], cycles, size)


def _open_cycles(arcs: np.ndarray, cycles: Sequence[_Cycle], size: int) -> np.ndarray:
    """Return the heads of words, given the arcs into the outermost nodes."""
    heads = np.full(size, -1)
    heads[arcs // size] = arcs % size
    for cycle in reversed(
        cycles
    ):  # from the outermost: one word of each already has a head outside
        entered = cycle.nodes_of_words[heads[cycle.words] >= 0]
        kept = cycle.arcs[cycle.nodes != entered]
        heads[kept // size] = kept % size
    heads[0] = 0
    return heads


def _contract(weight: np.ndarray, arc: np.ndarray, cycle: np.ndarray, worth: np.ndarray) -> None:
    """Make the first node of a cycle represent all of it, in place. worth: of the cycle's arc into each node."""
    first, every = cycle[0], np.arange(len(weight))
    gains = weight[cycle] - worth[:, None]  # of an arc from outside that replaces one of the cycle
    best = gains.argmax(0)
    weight[first], arc[first] = gains[best, every], arc[cycle[best], every]
    best = cycle[weight[:, cycle].argmax(1)]
    weight[:, first], arc[:, first] = weight[every, best], arc[every, best]
    weight[:, cycle[1:]] = BARRED
    weight[first, first] = BARRED
