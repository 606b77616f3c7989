"""Files of targets: what was computed comes back, and a crafted file is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from fwk.data.targets import FORMAT, UNKNOWN, hashed_keys, pack_targets, read_targets
from fwk.errors import DataError

KEYS = {"a": ["k0", "k1", "k2"], "b/c d": ["x"]}
ORIGIN = {"checkpoint": "run", "update": 3, "split": "train", "fingerprint": "f"}
INF = torch.inf


@pytest.fixture
def packed() -> bytes:
    predictions = {
        "a": {
            "label": {0: torch.tensor([1.0, 2.0]), 2: torch.tensor([0.5, -1.0, 3.0])},
            "score": {1: torch.tensor(2.5)},
        },
        "b/c d": {"label": {0: torch.tensor([4.0, 5.0])}},
    }
    return pack_targets(predictions, KEYS, ORIGIN)


def test_what_was_computed_comes_back(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "targets.safetensors"
    path.write_bytes(packed)
    stored = read_targets(path)
    assert stored.origin == ORIGIN
    label, score = stored.tensors["a"]["label"], stored.tensors["a"]["score"]
    # shorter rows are padded as logits are; examples without a prediction have no numbers
    assert label[[0, 2]].tolist() == [[1.0, 2.0, -INF], [0.5, -1.0, 3.0]]
    assert bool(label[1].isnan().all())
    assert score.isnan().tolist() == [True, False, True] and float(score[1]) == 2.5
    assert stored.tensors["b/c d"]["label"].tolist() == [[4.0, 5.0]]
    for source, keys in KEYS.items():
        assert torch.equal(stored.keys[source], hashed_keys(keys))
    assert len({*stored.keys["a"].tolist()}) == 3 and bool((stored.keys["a"] >= 0).all())


def test_a_file_of_format_1_is_read_and_says_nothing_of_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "targets.safetensors"
    tensors = {"a/keys": hashed_keys(KEYS["a"]), "a/label": torch.zeros(3, 2)}
    metadata = {"format": "fwk targets 1", "origin": json.dumps(ORIGIN)}
    path.write_bytes(crafted(tensors, metadata))
    stored = read_targets(path)
    assert torch.equal(stored.keys["a"], hashed_keys(KEYS["a"]))
    assert stored.digests["a"].tolist() == [UNKNOWN] * 3


def test_what_examples_hold_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "targets.safetensors"
    digests = {"a": [7, 2**62, 0], "b/c d": None}
    path.write_bytes(pack_targets({}, KEYS, ORIGIN, digests))
    stored = read_targets(path)
    assert stored.digests["a"].tolist() == digests["a"]
    assert stored.digests["b/c d"].tolist() == [UNKNOWN]


def crafted(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    return save(tensors, metadata)


GOOD = {"format": FORMAT, "origin": json.dumps(ORIGIN)}
TENSORS = {"a/keys": torch.zeros(2, 2, dtype=torch.int64), "a/label": torch.zeros(2, 3)}
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"\x80\x04]q\x00.", "cannot be read"),
        (crafted(TENSORS, {}), "holds no targets"),
        (crafted(TENSORS, {**GOOD, "format": "fwk targets 99"}), "holds no targets"),
        (crafted(TENSORS, {"format": FORMAT}), "its origin is not JSON"),
        (crafted(TENSORS, {**GOOD, "origin": DEEP}), "its origin is not JSON"),
        (crafted(TENSORS, {**GOOD, "origin": "[1]"}), "not a JSON object"),
        (crafted({"a/label": torch.zeros(2)}, GOOD), "the keys of 'a' are missing"),
        (crafted({**TENSORS, "a/keys": torch.zeros(2, 2)}, GOOD), "the keys of 'a' are missing"),
        (
            crafted({**TENSORS, "a/keys": torch.zeros(2, dtype=torch.int64)}, GOOD),
            "the keys of 'a' are missing",
        ),
        (crafted({**TENSORS, "a/label": torch.zeros(3, 3)}, GOOD), "does not fit its keys"),
        (crafted({**TENSORS, "a/label": torch.tensor(1.0)}, GOOD), "does not fit its keys"),
        (
            crafted({**TENSORS, "a/label": torch.zeros(2, dtype=torch.int64)}, GOOD),
            "does not fit its keys",
        ),
    ],
)
def test_a_crafted_file_is_refused_in_one_sentence(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "targets.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        read_targets(path)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data[:20], lambda data: b"\xff" + data[1:]]
)
def test_a_damaged_file_is_refused(
    damage: Callable[[bytes], bytes], packed: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "targets.safetensors"
    path.write_bytes(damage(packed))
    with pytest.raises(DataError, match="cannot be read"):
        read_targets(path)


def test_the_file_is_in_the_format_of_safetensors(packed: bytes) -> None:
    tensors = load(packed)
    assert set(tensors) == {"a/keys", "a/label", "a/score", "b/c d/keys", "b/c d/label"}
    assert all(value.dtype in (torch.float32, torch.int64) for value in tensors.values())
