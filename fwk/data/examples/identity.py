"""What is known of encoded examples as a whole: their fingerprint, and how many have each class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from fwk.data.examples.encoded import EncodedExamples
from fwk.data.examples.encoder import ExampleEncoder
from fwk.data.examples.labels import LabelSpace

BySource = Mapping[str, EncodedExamples]


def fingerprint_of(encoder: ExampleEncoder, encoded: Mapping[str, BySource]) -> str:
    """Return a hash of tokenizer, layout, labels and all examples. encoded: by split and source."""
    digest = hashlib.sha256()
    texts, spaces = map(asdict, encoder.texts), map(asdict, encoder.spaces.values())
    layout = [encoder.tokenizer.fingerprint, asdict(encoder.frame), [*texts], [*spaces]]
    digest.update(json.dumps(layout).encode())
    for split, sources in encoded.items():
        for name, source in sources.items():
            digest.update(f"{split}/{name}/{len(source)}".encode())
            for array in source.arrays():
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def count_classes(
    sources: BySource, spaces: Mapping[str, LabelSpace]
) -> dict[str, tuple[int, ...]]:
    """Return how many examples have each class, by name of the labels that are one class."""
    return {
        name: tuple(int(count) for count in sum(_counts(sources, space), start=np.zeros(1, int)))
        for name, space in spaces.items()
        if space.kind == "class"
    }


def _counts(sources: BySource, space: LabelSpace) -> list[np.ndarray]:
    return [source.counts(space.name, len(space.values)) for source in sources.values()]
