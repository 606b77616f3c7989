"""What a run keeps of its training data: enough to use a trained model where the data is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fwk.errors import DataError
from fwk_plugins.cvt.corpora.tags import Scheme

ASSETS_FILE = "sentences.json"


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
        (folder / ASSETS_FILE).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Assets:
        """Return the assets of a run. Raises DataError where its file is missing or malformed."""
        path = folder / ASSETS_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            sizes = values.get("sizes")
            return cls(
                words=list(map(str, values["words"])),
                labels={
                    str(name): tuple(map(str, texts)) for name, texts in values["labels"].items()
                },
                vectors=int(values.get("vectors", 0)),
                schemes=dict(values.get("schemes", {})),
                fingerprint=str(values.get("fingerprint", "")),
                sizes=sizes and {str(name): int(size) for name, size in sizes.items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} does not contain the words of a run of the task 'sentences' ({error})"
            ) from None
