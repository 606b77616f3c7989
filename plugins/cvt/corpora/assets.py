"""What a run keeps of its training data: enough to use a trained model where the data is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fwk.contracts.json_files import fitted, read_json
from fwk.files import write_atomically
from fwk_plugins.cvt.corpora.tags import Scheme

ASSETS_FILE = "sentences.json"
TYPES = {  # of the entries of the file; older versions lack some
    "words": "list[str, ...]",
    "labels": "dict[str, tuple[str, ...]]",
    "vectors?": "int",
    "schemes?": "dict[str, Literal['IOB1', 'IOB2', 'BIOES']]",
    "fingerprint?": "str",
    "sizes?": "dict[str, int] | None",
}


@dataclass(frozen=True, kw_only=True)
class Assets:
    """Words and labels of a run, stored in its folder `tokenizer`."""

    words: list[str]
    labels: dict[str, tuple[str, ...]]  # values by label
    vectors: int  # width of the word vectors that were read from a file; 0: none were
    schemes: dict[str, Scheme]  # by label that marks spans: the scheme of the files
    fingerprint: str
    sizes: dict[str, int] | None  # sentences by training source; None in runs of older versions

    def write(self, folder: Path) -> None:
        values = {
            "words": self.words,
            "labels": self.labels,
            "vectors": self.vectors,
            "schemes": self.schemes,
            "fingerprint": self.fingerprint,
        }
        if self.sizes:
            values["sizes"] = self.sizes
        write_atomically(folder / ASSETS_FILE, json.dumps(values, ensure_ascii=False).encode())

    @classmethod
    def read(cls, folder: Path) -> Assets:
        """Return the assets of a run. Raises DataError where its file is missing or malformed."""
        path = folder / ASSETS_FILE
        values = fitted(read_json(path), TYPES, path, low=0, high=1 << 40)
        return cls(
            words=values["words"],
            labels=values["labels"],
            vectors=values.get("vectors", 0),
            schemes=values.get("schemes", {}),
            fingerprint=values.get("fingerprint", ""),
            sizes=values.get("sizes"),
        )
