"""Sizes of sequences and encoders from which operations are counted (`fwk.flops`)."""

from __future__ import annotations

from dataclasses import dataclass

# per number that a layer computes: sum, square, sum, add, multiply; tanh approximation; max, subtract, exp, sum, divide;
# draw, compare, multiply twice
NORM, GELU, SOFTMAX, DROPOUT = 5, 8, 5, 4


PREDICTED = 0.15625  # 80 of 512: how many positions have a softmax in the published counts


@dataclass(frozen=True)
class SequenceShape:
    """Sequences as an encoder sees them. predicted: share of the positions with a softmax over the vocabulary. products:
    embeddings are looked up by products with one-hot vectors; False: for nothing, as it is done."""

    length: int
    vocabulary: int
    predicted: float = PREDICTED
    products: bool = True


@dataclass(frozen=True)
class Transformer:
    """The sizes of an encoder that operations depend on."""

    layers: int
    width: int
    heads: int
    inner: int
    embedding: int

    def forward(self, shape: SequenceShape) -> float:
        """Of one sequence: embedding and layers."""
        return shape.length * (self._embedding(shape) + self.layers * self._layer(shape))

    def _embedding(self, shape: SequenceShape) -> float:
        # tokens, positions, segments
        lookups = (
            2 * self.embedding * (shape.vocabulary + shape.length + 2) if shape.products else 0
        )
        rest = (2 + NORM + DROPOUT) * self.embedding
        return (
            lookups
            + rest
            + (2 * self.width * self.embedding + self.width if self.embedding != self.width else 0)
        )

    def _layer(self, shape: SequenceShape) -> float:
        T, D = shape.length, self.width
        projections = 4 * (2 * D * D + D)  # queries, keys, values, output
        attention = 2 * 2 * D * T + (SOFTMAX + DROPOUT + 1) * T * self.heads
        feed_forward = 2 * 2 * D * self.inner + (GELU + 1) * self.inner + D
        return projections + attention + feed_forward + 2 * (DROPOUT + 1 + NORM) * D

    def softmax(
        self, shape: SequenceShape, share: float | None = None, width: int | None = None
    ) -> float:
        """Of one sequence: dense, GELU, norm, and the softmax over the vocabulary at a share of the positions (those that are
        predicted). width: of the features, where it is not the encoder's."""
        dense = (2 * (width or self.width) + 1 + GELU + NORM) * self.embedding
        output = (2 * self.embedding + SOFTMAX + 2) * shape.vocabulary
        return (shape.predicted if share is None else share) * shape.length * (dense + output)

    def binary(self, shape: SequenceShape) -> float:
        """Of one sequence: dense, GELU and one number at every position."""
        return shape.length * ((2 * self.width + 1 + GELU) * self.width + 2 * self.width)
