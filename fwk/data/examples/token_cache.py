"""Tokens of many texts, kept in the cache under the content of the texts and the tokenizer.

A file is one line of JSON (`_TYPES`) and the arrays behind each other, in the byte order of the processor. It is
written to a temporary name and renamed, so two processes may make the same one. Nothing depends on the cache: where it
cannot be used, texts are encoded as if there were none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fwk.contracts.json_files import fitted, parse_json
from fwk.data.examples.encoded import EncodedText
from fwk.errors import FwkError
from fwk.files import cache_folder, write_atomically
from fwk.files.shared_cache import create_in_cache, require_own

FEWEST = 20_000  # texts; fewer are encoded in about a second
VERSION = 1
FILE = "tokens"
_TYPES = {"texts": "int", "tokens": "int", "has_offsets": "bool", "sha256": "str"}
_LONGEST_LINE = 1024

logger = logging.getLogger(__name__)


def key_of(texts: Sequence[str], tokenizer: str, longest: int | None, has_offsets: bool) -> str:
    """Return a hash of everything that the tokens of texts depend on. tokenizer: its fingerprint."""
    digest = hashlib.sha256()
    digest.update(json.dumps([VERSION, sys.byteorder, tokenizer, longest, has_offsets]).encode())
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def read_tokens(key: str, texts: int) -> EncodedText | None:
    """Return the tokens of `texts` texts that are kept under a key; None where there are none, or they are damaged."""
    try:
        folder = _folder(key)
        require_own(folder)
        with open(folder / FILE, "rb") as file:
            line, payload = file.readline(_LONGEST_LINE), bytearray(file.read())
        header = fitted(parse_json(line.decode()), _TYPES, folder / FILE, low=0)
        size = header["tokens"], header["has_offsets"]
        if header["sha256"] == hashlib.sha256(payload).hexdigest() and header["texts"] == texts:
            return _unpacked(payload, texts, *size)
    except (OSError, ValueError, FwkError) as error:
        logger.debug("no tokens in the cache: %s", error)
    return None


def keep_tokens(key: str, encoded: EncodedText) -> None:
    """Keep the tokens of texts under a key, if the cache can be written."""
    parts = [encoded.starts, encoded.ids]
    parts += [] if encoded.offsets is None else [encoded.offsets]
    payload = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    header = {
        "texts": len(encoded.starts) - 1,
        "tokens": len(encoded.ids),
        "has_offsets": encoded.offsets is not None,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    try:
        folder = _folder(key)
        create_in_cache(folder)
        require_own(folder)
        write_atomically(folder / FILE, json.dumps(header).encode() + b"\n" + payload)
    except (OSError, FwkError) as error:
        logger.debug("tokens are not kept in the cache: %s", error)


def _folder(key: str) -> Path:
    return cache_folder() / "examples" / key[:24]


def _unpacked(payload: bytearray, texts: int, tokens: int, has_offsets: bool) -> EncodedText:
    """Return the arrays of a file. Raises ValueError where it has another size."""
    starts = np.frombuffer(payload, np.int64, texts + 1)
    ids = np.frombuffer(payload, np.int32, tokens, starts.nbytes)
    offsets = None
    if has_offsets:
        offsets = np.frombuffer(payload, np.int32, 2 * tokens, ids.nbytes + starts.nbytes)
        offsets = offsets.reshape(-1, 2)
    return EncodedText(ids=ids, starts=starts, offsets=offsets)
