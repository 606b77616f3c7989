"""What a run on labelled examples keeps beside its tokenizer, for using the model without the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fwk.contracts.json_files import fitted, read_object
from fwk.data.examples.demonstrations import Sets
from fwk.data.examples.encoding import TextSpec
from fwk.data.examples.labels import KINDS, LabelSpace
from fwk.errors import DataError
from fwk.files import write_atomically

ASSETS_FILE = "examples.json"
_TYPES = {
    "texts": "tuple[dict[str, Any], ...]",
    "labels": "tuple[dict[str, Any], ...]",
    "sizes": "dict[str, int]",
    "sources": "tuple[str, ...]",
    "fingerprint": "str",
    "demonstrations?": "tuple[tuple[dict[str, str], ...], ...]",
    "counts?": "dict[str, tuple[int, ...]]",
}
_TEXT_TYPES = {"name": "str", "is_list": "bool", "has_spans": "bool", "longest?": "int | None"}
_LABEL_TYPES = {
    "name": "str",
    "kind": "str",
    "values": "tuple[str, ...]",
    "text": "str",
    "optional?": "bool",
}


@dataclass(frozen=True)
class Assets:
    """The texts and labels of a task, and the size of its training data."""

    texts: tuple[TextSpec, ...]
    labels: tuple[LabelSpace, ...]
    sizes: dict[str, int]  # examples by name of the training source
    sources: tuple[str, ...]  # of all splits
    fingerprint: str  # of the task in training
    demonstrations: Sets = ()  # that prompts have outside of training
    # training examples by label and class; runs of before they were kept have none
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Assets:
        """Return the assets in a folder. Raises DataError for a file that is missing or damaged."""
        path = folder / ASSETS_FILE
        content = fitted(read_object(path), _TYPES, path, low=0)
        texts = [TextSpec(**fitted(entry, _TEXT_TYPES, path)) for entry in content["texts"]]
        labels = [LabelSpace(**fitted(entry, _LABEL_TYPES, path)) for entry in content["labels"]]
        for space in labels:
            if space.kind not in KINDS:
                raise DataError(
                    f"{path}: the label '{space.name}' is of the kind '{space.kind[:40]}', expected one of "
                    f"{', '.join(KINDS)}"
                )
        return cls(
            tuple(texts),
            tuple(labels),
            content["sizes"],
            content["sources"],
            content["fingerprint"],
            content.get("demonstrations", ()),
            content.get("counts", {}),
        )

    def write(self, folder: Path) -> None:
        """Write the assets to a folder."""
        write_atomically(folder / ASSETS_FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())
