"""Files that a stranger crafted are refused in one sentence, whatever they hold, or mean what they say.

Every file of a small run and of its token store is changed in every place, one at a time: each entry of its JSON, the
header and the values of its tensors and arrays, and its bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.runs import SIX_UPDATES

import fwk
from fwk.contracts.json_files import DEEPEST, parse_json
from fwk.data.blocks import Blocks, Layout
from fwk.data.preprocess import Options, TokenizerSpec, build_store
from fwk.data.store import Store, fingerprint_of
from fwk.data.weights import read_tensors
from fwk.engine.saving import checkpoint
from fwk.engine.saving.tensor_file import serialize
from fwk.errors import CheckpointError, DataError, FwkError, UserError, printable
from fwk.files import write_atomically
from fwk.files.kinds import EXPORT
from fwk.files.outputs import AtomicFolder
from fwk.hooks.jsonl import read_metrics
from fwk.runs import start
from fwk.testing import merge_settings, tiny_config

DEEP = "[" * 200_000 + "]" * 200_000
# what is put into the place of each entry of a JSON file, as text
VALUES = (
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e999",
    "NaN",
    "9" * 40,
    '""',
    '"\\u0000"',
    '"\\u001b[2J\\ud800"',
    '"../../x"',
    "[]",
    "{}",
    '{"": {"": []}}',
    DEEP,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crafted")
    text = "\n\n".join(
        f"The old bridge {i} was built by people who lived near. It stands over the river {i}."
        for i in range(40)
    )
    (folder / "text.txt").write_text(text)
    options = Options(valid_share=0.1)
    return build_store(
        [folder / "text.txt"], folder / "store", TokenizerSpec(size=90), options=options
    )


def settings(store: Path, run: Path, updates: int = 2) -> dict:
    return merge_settings(
        SIX_UPDATES,
        {
            "task": {"name": "mlm", "data": str(store), "length": 16},
            "model": {"name": "bert", "layers": 1, "width": 8, "heads": 1, "inner": 8},
            "train": {"updates": updates, "save_every": 2, "ema": 0.5, "batch": 2},
            "run": str(run),
        },
    )


@pytest.fixture(scope="module")
def run(store, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crafted") / "run"
    start.train(tiny_config(settings(store, folder)))
    return folder


# -- changes -----------------------------------------------------------------------------------------------------------


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every entry of a JSON value, the value itself included."""
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, entry in inner:
        yield from places(entry, (*path, key))


def with_entry(content: object, path: tuple, text: str | None) -> str:
    """Return a JSON value as text with another entry at a path; None: without it."""
    if not path:
        return text or ""
    content = json.loads(json.dumps(content))
    outer = content
    for key in path[:-1]:
        outer = outer[key]
    if text is None:
        del outer[path[-1]]
        return json.dumps(content)
    outer[path[-1]] = "<HERE>"
    return json.dumps(content).replace('"<HERE>"', text)


def json_changes(data: bytes) -> Iterator[bytes]:
    content = json.loads(data)
    for path in places(content):
        for text in (*VALUES, None):
            yield with_entry(content, path, text).encode("utf-8", "surrogatepass")


def tensor_changes(data: bytes) -> Iterator[bytes]:
    """Yield a safetensors file with another header, without tensors, with NaN, and cut."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]

    def file(header: str, body: bytes = body) -> bytes:
        return struct.pack("<Q", len(header.encode())) + header.encode() + body

    yield from (b"", data[:7], data[:-1], struct.pack("<Q", 1 << 62) + data[8:], file("{}", b""))
    yield file(DEEP)
    header.pop("__metadata__", None)
    if not header:
        return
    name = max(header, key=lambda name: header[name]["data_offsets"][1])
    entry = header.pop(name)
    yield file(json.dumps(header), body[: entry["data_offsets"][0]])
    yield file(json.dumps({**header, "\x1b[2J": entry}))
    yield file(json.dumps({**header, name: {**entry, "shape": [1 << 62, 1 << 62, 0]}}))
    for shape in ([1 << 62, 8], [1] * 30 + entry["shape"], [*entry["shape"], 1], [-1], None, "x"):
        yield file(json.dumps({**header, name: {**entry, "shape": shape}}))
    for dtype in ("I32", "F4", "C64", "X", 1):
        yield file(json.dumps({**header, name: {**entry, "dtype": dtype}}))
    yield file(json.dumps({**header, name: entry}), b"\xff" * len(body))


def array_changes(data: bytes) -> Iterator[bytes]:
    """Yield a .npy file with another shape and type, and other values."""
    text = data[10 : 10 + int.from_bytes(data[8:10], "little")].decode()

    def file(text: str, body: bytes = data[10 + len(text) :]) -> bytes:
        return data[:8] + struct.pack("<H", len(text)) + text.encode() + body

    yield from (b"", data[:20], b"PK\x03\x04" + data[4:], data[:-1], DEEP.encode())
    for old, new in (
        ("<i8", "|O"),
        ("<f8", "|O"),
        ("(", f"({10**15}, "),
        ("(", "(-1, "),
        ("'shape'", "'x'"),
    ):
        yield file(text.replace(old, new))
    yield file("(" * 9000)
    yield file(text, b"\xff" * (len(data) - 10 - len(text)))


def byte_changes(data: bytes) -> Iterator[bytes]:
    yield from (
        b"",
        b"\x00",
        data[: len(data) // 2],
        data + data,
        b"\xff" * len(data),
        DEEP.encode(),
    )
    yield bytes(reversed(data))


def offset_changes(data: bytes) -> Iterator[bytes]:
    """Yield 32-bit numbers in another order, and too large ones."""
    numbers = np.frombuffer(data, "<u4")
    yield from (numbers[::-1].tobytes(), np.full_like(numbers, 2**32 - 1).tobytes())
    yield from ((numbers * 2).tobytes(), np.zeros_like(numbers).tobytes())
    yield np.concatenate([numbers[:1], numbers[2:], numbers[-1:]]).tobytes()


def changes(path: Path) -> list[bytes]:
    """Return the changed contents of a file."""
    data = path.read_bytes()
    by_suffix: dict[str, Callable[[bytes], Iterator[bytes]]] = {
        ".json": json_changes,
        ".safetensors": tensor_changes,
        ".npy": array_changes,
        ".documents": offset_changes,
        ".sentences": offset_changes,
        ".tokens": lambda data: iter([b"\xff" * len(data)]),
    }
    return [*by_suffix.get(path.suffix, byte_changes)(data), b"", data[: len(data) // 2]]


# -- what is opened ----------------------------------------------------------------------------------------------------


def vouch(folder: Path, name: str) -> None:
    """Make the manifests of a folder fit the changed file NAME."""
    if not (folder / "checkpoints").is_dir():
        vouch_for_store(folder)
    elif "checkpoints" in name and not name.endswith("manifest.json"):
        vouch_for_checkpoint((folder / name).parent, Path(name).name)


def vouch_for_checkpoint(folder: Path, name: str) -> None:
    """Write the hash and the size of a changed file into the checkpoint's manifest."""
    data = (folder / name).read_bytes()
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(manifest))


def vouch_for_store(folder: Path) -> None:
    """Make the manifest of a store say what its files hold, as far as it can be read."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        for split in manifest["splits"].values():
            for entry in split["shards"]:
                for part in entry["sha256"]:
                    data = (folder / f"{entry['name']}.{part}").read_bytes()
                    entry["sha256"][part] = hashlib.sha256(data).hexdigest()
        manifest["fingerprint"] = fingerprint_of(manifest)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, OSError):
        return
    path.write_text(json.dumps(manifest))


def read_store(folder: Path) -> None:
    store = Store(folder)
    tokenizer = store.tokenizer()
    store.unigrams()
    for name in store.splits:
        split = store.split(name)
        for document in range(split.documents):
            split.sentence_starts(document)
        for kind in ("contiguous", "pairs"):
            layout = Layout(kind=kind, length=16, cls=tokenizer.cls, sep=tokenizer.sep)
            blocks = Blocks(split, layout)
            blocks.many(range(len(blocks)))


def read_run(folder: Path) -> None:
    loaded = fwk.load(folder, trust=True)
    loaded.task.vocabulary()
    read_metrics(folder / "metrics.jsonl")


def refused(action: Callable[[], object], what: str) -> bool:
    """Return whether the action raised an error that is one printable sentence; any other error fails."""
    try:
        action()
    except FwkError as error:
        assert str(error) and printable(str(error)) == str(error), what
        assert len(str(error)) < 2000, what
        assert isinstance(error, UserError), f"{what}: {error}"
        return True
    return False


def files_of(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.suffix not in (".lock", "")
        and "tensorboard" not in path.parts
    )


def try_all(
    folder: Path, tmp_path: Path, open_it: Callable[[Path], None], few: int, afresh: bool = False
) -> int:
    """Change each file of a folder in each way and open it; return the number of changes that were refused.

    few: changes of each file, evenly spaced; 0: all. afresh: opening changes the folder, so that
    each change needs a copy of its own.
    """
    count = 0
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    for name in files_of(folder):
        every = changes(folder / name)
        for number in range(0, len(every), max(1, len(every) // few) if few else 1):
            (copy / name).write_bytes(every[number])
            vouch(copy, name)
            what = f"{name}, change {number}: {every[number][:80]!r}"
            count += refused(lambda: open_it(copy), what)
            if afresh:
                shutil.rmtree(copy)
                shutil.copytree(folder, copy, symlinks=True)
            for restored in (name, str(Path(name).parent / "manifest.json")):
                if (folder / restored).is_file():
                    shutil.copy2(folder / restored, copy / restored)
    return count


@pytest.mark.parametrize("few", [25, pytest.param(0, marks=pytest.mark.slow)])
def test_a_crafted_store_is_refused_or_read(store, tmp_path, few):
    assert try_all(store, tmp_path, read_store, few) > 50


@pytest.mark.parametrize("few", [3, pytest.param(0, marks=pytest.mark.slow)])
def test_a_crafted_run_is_refused_or_loaded(run, tmp_path, few):
    assert try_all(run, tmp_path, read_run, few) > 15


@pytest.mark.slow
def test_a_crafted_checkpoint_is_refused_or_resumed(run, store, tmp_path):
    config = tiny_config(settings(store, tmp_path / "copy", updates=4))

    def resume(folder: Path) -> None:
        try:
            start.train(config)
        except FwkError as error:
            if "fwk_checkpoint_load" not in str(error):
                raise

    assert try_all(run, tmp_path, resume, few=25, afresh=True) > 50


# -- single properties -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 5000 + "1" + "}" * 5000, "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)]
)
def test_deep_json_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        parse_json(text)
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)


def test_control_characters_in_names_are_escaped_in_every_message():
    error = DataError("a\x1b[2Jb\x00\r\u202e\udc80 é 日本")
    assert str(error) == "a\\x1b[2Jb\\x00\\r\\u202e\\udc80 é 日本"
    assert len(str(CheckpointError("x" * 1_000_000))) < 5000


def test_all_json_is_parsed_in_one_place():
    """`json.loads` raises RecursionError; what ranks of one job send each other is none of a stranger's."""
    root = Path(fwk.__file__).parent
    users = {
        path.relative_to(root).as_posix()
        for folder in (root, root.parent / "plugins")
        for path in folder.rglob("*.py")
        if "json.load" in path.read_text(encoding="utf-8") and "ranks" not in path.parts
    }
    assert users <= {
        "contracts/json_files.py",
        "files/kinds.py",
        "hf/tokenizer.py",
        "data/tokenizers/patterns.py",
    }  # the last two read what they wrote themselves


def test_the_state_of_the_optimizer_must_be_that_of_its_parameters(run, store, tmp_path):
    for name in ("empty", "shape", "settings"):
        shutil.copytree(run, tmp_path / name, symlinks=True)
        folder = checkpoint.find_checkpoint(tmp_path / name)
        path = folder / "optimizer.safetensors"
        tensors = read_tensors(path)
        if name == "empty":
            tensors = {}
            replace_state(folder, {"optimizer": {}})
        elif name == "shape":
            first = next(key for key in tensors if key.endswith("exp_avg"))
            tensors[first] = tensors[first][..., :1].clone()
        else:
            first = next(key for key in tensors if key.endswith("exp_avg"))
            parameter = first.removesuffix("::exp_avg")
            replace_state(folder, {"optimizer": {f"{parameter}::group.params": 3}})
        path.write_bytes(b"".join(map(bytes, serialize(tensors))))
        vouch_for_checkpoint(folder, path.name)
        message = {
            "empty": "holds no state of the optimizer after 2 updates",
            "shape": "exp_avg of the optimizer's state is .*, expected numbers",
            "settings": "'group.params' is no state of the optimizer",
        }[name]
        with pytest.raises(CheckpointError, match=message):
            start.train(tiny_config(settings(store, tmp_path / name, updates=4)))


def replace_state(folder: Path, entries: dict) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    vouch_for_checkpoint(folder, path.name)


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"1")
    path.chmod(0o600)
    write_atomically(path, b"2")
    assert path.read_bytes() == b"2" and path.stat().st_mode & 0o777 == 0o600
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    with AtomicFolder(folder, True, EXPORT) as filled:
        (filled / "new").write_text("3")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "new").stat().st_mode & 0o777 == 0o600
