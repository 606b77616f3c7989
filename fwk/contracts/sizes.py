"""Sizes of sequences and Transformers, from which `fwk.flops` counts operations."""

from __future__ import annotations

from dataclasses import dataclass

# operations per number that a layer computes
NORM = 5  # sum, square, sum, add, multiply
GELU = 8  # tanh approximation
SOFTMAX = 5  # max, subtract, exp, sum, divide
DROPOUT = 4  # draw, compare, multiply twice

PREDICTED = 0.15625  # 80 of 512: the share of positions with a softmax in the published counts


@dataclass(frozen=True)
class SequenceShape:
    """The shape of a sequence as an encoder and its heads process it."""

    length: int  # positions
    vocabulary: int  # tokens in the vocabulary
    predicted: float = PREDICTED  # share of the positions with a softmax over the vocabulary
    # True: count embedding lookups as products with one-hot vectors, as the ELECTRA paper does; False: lookups are
    # free, as they are on real hardware
    products: bool = True


@dataclass(frozen=True)
class Transformer:
    """The sizes of a Transformer encoder. Each method returns the operations for one sequence."""

    layers: int
    width: int  # D
    heads: int
    inner: int  # width of the feed-forward layer
    embedding: int  # E, width of the token embedding

    def forward(self, shape: SequenceShape) -> float:
        """Return the operations of a forward pass through embedding and layers."""
        return shape.length * (self._embedding(shape) + self.layers * self._layer(shape))

    def softmax(
        self, shape: SequenceShape, share: float | None = None, width: int | None = None
    ) -> float:
        """Return the operations of a masked-LM head: dense, GELU, norm, softmax over the vocabulary.

        share: of the positions that have a softmax; None: `shape.predicted`. width: of the features; None: D.
        """
        dense = (2 * (width or self.width) + 1 + GELU + NORM) * self.embedding
        output = (2 * self.embedding + SOFTMAX + 2) * shape.vocabulary
        return (shape.predicted if share is None else share) * shape.length * (dense + output)

    def binary(self, shape: SequenceShape) -> float:
        """Return the operations of a head with dense, GELU and one logit at every position."""
        return shape.length * ((2 * self.width + 1 + GELU) * self.width + 2 * self.width)

    def _embedding(self, shape: SequenceShape) -> float:
        """Return the operations per position of the embeddings."""
        E, D = self.embedding, self.width
        # tokens, positions and two segments
        lookups = 2 * E * (shape.vocabulary + shape.length + 2) if shape.products else 0
        sums = (2 + NORM + DROPOUT) * E
        projection = 2 * D * E + D if E != D else 0
        return lookups + sums + projection

    def _layer(self, shape: SequenceShape) -> float:
        """Return the operations per position of one layer."""
        T, D = shape.length, self.width
        projections = 4 * (2 * D * D + D)  # queries, keys, values, output
        attention = 2 * 2 * D * T + (SOFTMAX + DROPOUT + 1) * T * self.heads
        feed_forward = 2 * 2 * D * self.inner + (GELU + 1) * self.inner + D
        return projections + attention + feed_forward + 2 * (DROPOUT + 1 + NORM) * D
