"""Random input to every command: it works, or gives one sentence and exit status 2; no traceback, no half-written file.

Commands run in this process, each in an empty folder. The fast part draws the same few examples every time; the slow
part draws many others (`pytest -m slow tests/config/test_fuzz.py`) and prints how to draw a failing one again.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.commands import cache_with_index
from support.paths import ROOT

from fwk.cli import plugins, preprocess, train
from fwk.components.discovery import discover
from fwk.components.registry import registry
from fwk.config import yaml_text
from fwk.config.identity import to_yaml
from fwk.config.resolve import from_mapping
from fwk.config.spec import TRAIN_SCHEMA
from fwk.data.store import Store
from fwk.data.tokenizers import load
from fwk.errors import ConfigError, UserError

CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml"))
discover()


# -- running a command -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """Run in an empty folder, alone in its parent, with a cache of its own; remove both afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as outer:
        here = Path(outer) / "alone" / "here"
        here.mkdir(parents=True)
        os.chdir(here)
        try:
            with mock.patch.dict(
                os.environ, {"FWK_CACHE": cache_with_index(Path(outer) / "cache")}
            ):
                yield here
        finally:
            os.chdir(before)


def call(
    main: Callable[[list[str]], int], argv: list[str], stdin: bytes = b""
) -> tuple[int, str, str]:
    """Return exit status, standard output and standard error of a command; an exception fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
    ):
        try:
            status = main(argv)
        except SystemExit as exit:  # argparse
            status = exit.code or 0
    return status, out.getvalue(), err.getvalue()


def told(name: str, status: int, err: str, allowed: tuple[int, ...] = (0, 2)) -> None:
    """Assert an allowed status, and one sentence at the end of standard error after a failure."""
    assert status in allowed, (status, err)
    assert "Traceback" not in err
    if status:
        assert err.count(f"{name}: error: ") == 1, err
        assert err.rstrip("\n").rsplit("\n", 1)[-1].startswith(f"{name}: error: "), err


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- what is fed -----------------------------------------------------------------------------------------------------


HUGE = "9" * 30
SCALARS = st.one_of(
    st.sampled_from(
        [
            "",
            "a",
            "é",
            "\udcff",
            "😀",
            "\u2028",
            "\ufeff",
            "\0",
            "\t",
            "\n",
            "a\tb",
            " ",
            "null",
            "~",
            "true",
            "no",
            "NaN",
            ".nan",
            ".inf",
            "-.inf",
            "1e999",
            "1" * 500,
            "1" * 350,
            HUGE,
            "-1",
            "0",
            "-0.0",
            "1e-300",
            "0x10",
            "010",
            "1_0",
            "1:30",
            "2024-01-01",
            "x" * 300,
            "x" * 5000,
            "[",
            "{",
            "]",
            "}",
            "[1,",
            "{a: b",
            "[]",
            "{}",
            "[[[[1]]]]",
            "{a: {b: {c: {}}}}",
            "{1: 2}",
            "{null: 1}",
            "{? [a] : b}",
            "&a",
            "*a",
            "!t x",
            "!!python/object/apply:os.system [ls]",
            "!!binary aGk=",
            "!!int x",
            "|",
            ">",
            "- a",
            "'",
            '"',
            "\\",
            "`",
            "@",
            "%",
            "#",
            "${",
            "${}",
            "${a}",
            "${seed}",
            "${train}",
            "${oc.env:HOME}",
            "${oc.select:a,b}",
            "${${seed}}",
            "???",
            "<<",
            "{<<: 1}",
            "{<<: {a: b}}",
            "masked_lm",
            "semantic_augment",
            "bert",
            "bert_mask",
            "identity",
            "synthetic",
            "adamw",
            "linear",
            "{from: 0, to: 1}",
            "{name: bert}",
            "{name: nope}",
            "{noiser: bert_mask}",
        ]
    ),
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
)

TOPS = [
    "seed",
    "run",
    "user_dirs",
    "task",
    "model",
    "optimizer",
    "schedule",
    "criterion",
    "views",
    "networks",
    "hooks",
    "train",
]
KEYS = st.one_of(
    st.sampled_from(
        [
            *TOPS,
            "a",
            "a.b.c",
            ".",
            "..",
            "train.",
            ".train",
            "train..batch",
            "train.batch",
            "train.updates",
            "train.device",
            "train.batch.x",
            "task.name",
            "task.data",
            "task.data.a",
            "task.data.a.path",
            "task.length",
            "model.name",
            "model.size",
            "model.layers",
            "optimizer.lr",
            "optimizer.betas",
            "optimizer.no_decay",
            "optimizer.lr_scales",
            "optimizer.lr_scales.x",
            "criterion.name",
            "criterion.weight",
            "criterion.weight.from",
            "criterion.masked_lm",
            "criterion.masked_lm.weight",
            "criterion.semantic_augment",
            "criterion.x.name",
            "views.masked",
            "views.masked.noiser",
            "views.masked.of",
            "views.masked.ratio",
            "views.masked.network",
            "views.masked.network.tie",
            "views.x.noiser",
            "views.batch",
            "views.a b.noiser",
            "networks.g",
            "networks.g.tie",
            "networks.main",
            "hooks.tensorboard",
            "hooks.x",
            "hooks.jsonl.name",
            "schedule.warmup",
        ]
    ),
    st.text(max_size=5),
)
OVERRIDES = st.tuples(KEYS, SCALARS).map("=".join)


def words_of(flags: list[str]) -> st.SearchStrategy[list[str]]:
    """Return a strategy of command lines: these flags, cut and mixed with arbitrary words."""
    flag = st.sampled_from(flags)
    piece = st.one_of(
        st.tuples(flag),
        st.tuples(flag, SCALARS),
        st.tuples(flag, SCALARS).map(lambda pair: ("=".join(pair),)),
        st.tuples(flag.map(lambda name: name[:-1])),
        st.tuples(OVERRIDES),
        st.tuples(OVERRIDES),
        st.tuples(SCALARS),
    )
    return st.lists(piece, max_size=5).map(
        lambda pieces: [word for words in pieces for word in words]
    )


def safe(argv: list[str]) -> list[str]:
    """Return the words without those that name a place outside of the empty folder."""
    return [
        word
        for word in argv
        if not any(part.startswith(("/", "~", "..")) for part in (word, word.partition("=")[2]))
    ]


# -- command lines ---------------------------------------------------------------------------------------------------


def any_command_line_of_fwk_train(argv: list[str]) -> None:
    finished = SimpleNamespace(exit_status=0)
    with (
        empty_folder() as here,
        mock.patch("fwk.runs.start.train", lambda *arguments, **options: finished),
    ):
        (here / "x.yaml").write_text("train: {batch: 3}\n")
        status, _, err = call(train.main, safe(argv))
        told("fwk-train", status, err)
        assert tree(here) == ["x.yaml"]


def any_command_line_of_fwk_plugins(argv: list[str]) -> None:
    with empty_folder() as here, mock.patch.object(plugins, "index", lambda packages: 0):
        status, _, err = call(plugins.main, safe(argv))
        told("fwk-plugins", status, err)
        if status or "new" not in argv:
            assert tree(here) == []


def any_command_line_of_fwk_preprocess(argv: list[str]) -> None:
    with empty_folder() as here:
        (here / "x.txt").write_text("some text of a few words\n\nand more of it\n")
        argv = safe(argv)
        if not any(word.startswith("--processes") for word in argv):
            argv += ["--processes", "1"]
        status, _, err = call(preprocess.main, argv, b"text from elsewhere\n")
        told("fwk-preprocess", status, err)
        new = set(tree(here)) - {"x.txt"}
        assert status == 0 or not new, new
        assert not [name for name in new if ".partial" in name or name.endswith((".lock", ".tmp"))]


TRAIN_FLAGS = [*train.parser().flags, "-h", "--help=x"]
PLUGINS_WORDS = [
    "list",
    "show",
    "new",
    "check",
    "--user-dir",
    "--dir",
    "--dir=q",
    "--allow-broken-plugins",
    "-h",
    "criterion",
    "--user-dir=",
    "criterion/masked_lm",
    "masked_lm",
    "a/b",
    "/",
]
PREPROCESS_FLAGS = [
    "x.txt",
    "-o",
    "--output",
    "--tokenizer",
    "--vocabulary",
    "--cased",
    "--documents",
    "--format",
    "--field",
    "--valid-share",
    "--valid",
    "--processes",
    "--shard-size",
    "--sample-size",
    "--seed",
    "--overwrite",
    "--quiet",
    "-h",
    "-",
]
MOSTLY_RIGHT = ["x.txt", "-o", "store", "--vocabulary", "40"]


# -- YAML and configs ------------------------------------------------------------------------------------------------


YAML = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "a: ",
                "b: ",
                "- ",
                "  ",
                "    ",
                "\n",
                "\n\n",
                ": ",
                ", ",
                "{",
                "}",
                "[",
                "]",
                "&x ",
                "*x",
                "<<: *x",
                "# c",
                "|\n",
                ">-\n",
                "? ",
                "---\n",
                "...\n",
                "%YAML 1.1\n",
                "!!python/name:os.system ",
                "!t ",
                "'",
                '"',
                "\\",
                "\t",
                "\r",
                "\0",
                "\x85",
                "\u2028",
                "\ufeff",
                "1e-4",
                "true",
                "null",
                "task: synthetic\n",
                "train: {batch: 3}\n",
            ]
        ),
        SCALARS,
    ),
    max_size=14,
).map("".join)


def any_text_as_yaml(text: str) -> None:
    """Any text is a config file or a ConfigError, and the values that were read survive writing and reading."""
    try:
        values = yaml_text.parse(text, "fuzz.yaml").values
    except ConfigError as error:
        assert str(error)
        return
    if "${" in text:
        return  # written as \\${, which is read as what it stands for when a config is resolved
    # json compares without NaN being unequal to itself, and tells 1 from 1.0
    assert json.dumps(yaml_text.parse(yaml_text.dump(values), "again").values) == json.dumps(values)


def bomb(depth: int, width: int) -> str:
    levels = [f"l0: &l0 [{', '.join('x' for _ in range(width))}]"]
    levels += [
        f"l{n}: &l{n} [{', '.join(f'*l{n - 1}' for _ in range(width))}]" for n in range(1, depth)
    ]
    return "\n".join(levels) + "\n"


@st.composite
def damaged_configs(draw) -> bytes:
    """Return a shipped config after a few random edits."""
    data = draw(st.sampled_from(CONFIGS)).read_bytes()
    for _ in range(draw(st.integers(1, 3))):
        lines = data.split(b"\n")
        where = draw(st.integers(0, len(lines) - 1))
        kind = draw(
            st.sampled_from(
                [
                    "drop",
                    "double",
                    "indent",
                    "outdent",
                    "value",
                    "key",
                    "insert",
                    "cut",
                    "nest",
                    "bytes",
                    "bomb",
                    "tabs",
                ]
            )
        )
        line = lines[where]
        if kind == "drop":
            del lines[where]
        elif kind == "double":
            lines.insert(where, line)
        elif kind == "indent":
            lines[where] = b"  " + line
        elif kind == "outdent":
            lines[where] = line.lstrip()
        elif kind == "value":
            lines[where] = (
                line.split(b":")[0] + b": " + draw(SCALARS).encode("utf-8", "surrogateescape")
            )
        elif kind == "key":
            lines[where] = (
                draw(KEYS).encode("utf-8", "surrogateescape") + b":" + line.partition(b":")[2]
            )
        elif kind == "insert":
            lines.insert(where, draw(YAML).encode("utf-8", "surrogateescape"))
        elif kind == "nest":
            lines = [b"train:", *(b"  " + inner for inner in lines)]
        elif kind == "bomb":
            lines.append(bomb(draw(st.integers(2, 12)), draw(st.integers(2, 12))).encode())
        elif kind == "tabs":
            lines[where] = line.replace(b"  ", b"\t")
        data = b"\n".join(lines)
        if kind == "cut":
            data = data[: draw(st.integers(0, len(data)))]
        elif kind == "bytes":
            at = draw(st.integers(0, len(data)))
            data = data[:at] + draw(st.binary(max_size=3)) + data[at:]
    return data


def any_damaged_config(data: bytes) -> None:
    """A mangled config that is still valid is printed, and its output prints itself again."""
    with empty_folder() as here:
        (here / "c.yaml").write_bytes(data)
        status, out, err = call(train.main, ["--config", "c.yaml", "--print-config"])
        told("fwk-train", status, err)
        if status == 0:
            (here / "c.yaml").write_text(out, encoding="utf-8", errors="surrogateescape")
            again = call(train.main, ["--config", "c.yaml", "--print-config"])
            assert again[0] == 0, again[2]
            assert [line.split("  # ")[0].rstrip() for line in again[1].splitlines()] == [
                line.split("  # ")[0].rstrip() for line in out.splitlines()
            ]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), SCALARS, st.just(10**400)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=6,
)


def any_mapping_as_config(values: dict) -> None:
    """Nested plain data is a config or a UserError; the YAML of a config reads back to the same config."""
    try:
        config = from_mapping(values)
        text = to_yaml(config)
    except UserError as error:
        assert str(error)
        return
    assert to_yaml(from_mapping(yaml_text.parse(text, "again").values)) == text


# -- numbers that options allow, in a real update ---------------------------------------------------------------------


SMALL = [
    "--task",
    "synthetic",
    "--run",
    "r",
    "task.sequences=16",
    "task.length=8",
    "task.vocabulary=16",
    "model.layers=1",
    "model.width=8",
    "model.heads=2",
    "train.updates=1",
    "train.batch=2",
    "train.device=cpu",
    "hooks.terminal=null",
    "hooks.summary=null",
    "hooks.tensorboard=null",
]
# what takes its time, or the machine's memory, when it is large: that is what it is for
PATIENT = (
    "train.updates",
    "train.epochs",
    "train.tokens",
    "train.minutes",
    "train.workers",
    "train.threads",
    "train.compile",
    "train.batch",
    "task.sequences",
    "task.vocabulary",
    "task.length",
    "task.classes",
    "model.layers",
    "model.width",
    "model.inner",
    "model.embedding",
    "model.reach",
    "model.length",
    "model.segments",
    "model.heads",
    "model.size",
)
EXTREMES = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "0.5",
    "0.9999999",
    "1e-300",
    "1e-45",
    "1e300",
    "1e30",
    "-0.0",
    "9223372036854775807",
    "9223372036854775808",
    HUGE,
    "4294967296",
    "x",
    "''",
    "[]",
    "{}",
    "null",
    "true",
    "[0, 0]",
    "[0.5, 0.5]",
    "['*']",
    "{a: 1}",
    "{'*': 2}",
    "{'*': 1e308}",
    "{from: 0, to: 1e300}",
    "é",
]


def options() -> list[tuple[str, list[str]]]:
    """Return every option that works without data, with the words that choose its component."""
    found = [(f"train.{field.name}", []) for field in TRAIN_SCHEMA]
    for kind, names in (
        ("task", ["synthetic"]),
        ("model", ["bert"]),
        ("optimizer", registry.names("optimizer")),
        ("schedule", registry.names("schedule")),
        ("criterion", ["masked_lm", "semantic_augment"]),
    ):
        found += [
            (f"{kind}.{field.name}", [f"--{kind}", name])
            for name in names
            for field in registry.get(kind, name).schema
        ]
    for name in registry.names("noiser"):
        found += [
            (f"views.masked.{field.name}", [f"views.masked.noiser={name}"])
            for field in registry.get("noiser", name).schema
        ]
    for name in registry.names("hook"):
        found += [
            (f"hooks.{name}.{field.name}", [f"hooks.{name}={{}}"])
            for field in registry.get("hook", name).schema
        ]
    return [
        *found,
        ("seed", []),
        ("criterion.weight", []),
        ("views.masked.noiser", []),
        ("views.masked.of", []),
    ]


def any_value_of_any_option(drawn: tuple[tuple[str, list[str]], str]) -> None:
    (option, chosen), value = drawn
    if option in PATIENT and value not in ("0", "-1", "x", "null", HUGE, "9223372036854775808"):
        return
    with empty_folder() as here:
        status, _, err = call(train.main, [*SMALL, *chosen, f"{option}={value}"])
        told("fwk-train", status, err, (0, 1, 2))
        if status == 2:
            assert tree(here) == []


# -- text ------------------------------------------------------------------------------------------------------------


PROSE = (
    "The harbour of this town is old. Its bridge was built in 1850; nobody remembers why.\n" * 3
    + "\n"
) * 6
CONTENT = st.one_of(
    st.sampled_from(
        [
            b"",
            b"\n" * 30,
            b" \t \n" * 20,
            PROSE.encode(),
            PROSE.encode().rstrip(b"\n"),
            b"\xef\xbb\xbf" + PROSE.encode(),
            PROSE.encode("utf-16"),
            PROSE.encode("utf-32"),
            PROSE.encode()[:100] + b"\0" + PROSE.encode(),
            PROSE.replace("\n", "\r\n").encode(),
            PROSE.replace("\n", "\r").encode(),
            "é à ü ß ö ".encode("latin-1") * 50,
            bytes(range(1, 32)) * 20,
            b"\x07" * 400,
            "\u200b\u2028\x85\xa0\ufeff".encode() * 40,
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            "😀🙈".encode() * 100,
            b"[UNK] [MASK] <s> </s> <pad> [CLS]\n" * 20,
            "\u2581 \u2581\u2581\n".encode() * 20,
            b"x" * 5000,
            gzip.compress(PROSE.encode()),
            gzip.compress(PROSE.encode())[:60],
            lzma.compress(PROSE.encode()),
            b'{"text": "a b c"}\n' * 9,
            b'{"text": "a"}\n[1]\n',
            b'{"text": "\\ud800"}\n' * 3,
            b"[" * 5000,
            b'{"text": 1e999}\n',
        ]
    ),
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
)
NAMES = st.sampled_from(["a.txt", "b", "c.jsonl", "d.txt.gz", "e.xz", "f.zst", "ü b.txt"])
KINDS = st.sampled_from(["unigram", "bpe", "byte_bpe", "wordpiece"])
FILES = st.dictionaries(NAMES, CONTENT, min_size=1, max_size=2)


def put(files: dict[str, bytes]) -> Path:
    folder = Path("in")
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def any_text_for_fwk_preprocess(drawn: tuple[dict[str, bytes], str, str, str]) -> None:
    """Assert that there is a whole token store or none."""
    files, tokenizer, documents, size = drawn
    with empty_folder() as here:
        put(files)
        before = tree(here)
        argv = [
            *(f"in/{name}" for name in files),
            "-o",
            "new/store",
            "--tokenizer",
            tokenizer,
            "--vocabulary",
            size,
            "--processes",
            "1",
            "--documents",
            documents,
        ]
        status, _, err = call(preprocess.main, argv)
        told("fwk-preprocess", status, err)
        if status:
            assert tree(here) == before
        else:
            assert {path for path in tree(here) if path.count("/") < 2} - set(before) == {
                "new",
                "new/store",
            }
            store = Store(here / "new/store")
            assert store.split("train").tokens > 0
            assert not [
                path
                for path in tree(here)
                if ".tmp" in path or ".partial" in path or ".lock" in path
            ]


def any_text_for_task_data(drawn: tuple[dict[str, bytes], str]) -> None:
    """Assert one update, or no run and no half-written file in the cache."""
    files, tokenizer = drawn
    with empty_folder() as here:
        put(files)
        before = tree(here)
        argv = [
            "--task",
            "mlm",
            *SMALL[2:4],
            *SMALL[7:],
            "task.data=in",
            f"task.tokenizer={tokenizer}",
            "task.vocabulary=40",
            "task.length=8",
        ]
        status, _, err = call(train.main, argv)
        told("fwk-train", status, err)
        if status:
            assert tree(here) == before
        cache = here.parent.parent / "cache"
        assert not [
            path
            for path in tree(cache)
            if ".tmp" in path or ".partial" in path or path.endswith(".lock")
        ]


# -- the two depths --------------------------------------------------------------------------------------------------

# property, what it is fed, examples in the fast part and in the slow one
PROPERTIES: dict[str, tuple[Callable, st.SearchStrategy, int, int]] = {
    "command line of fwk-train": (any_command_line_of_fwk_train, words_of(TRAIN_FLAGS), 60, 3000),
    "override of fwk-train": (
        any_command_line_of_fwk_train,
        st.tuples(
            OVERRIDES, OVERRIDES, st.sampled_from(["--print-config", "--help", "seed=1"])
        ).map(list),
        80,
        4000,
    ),
    "command line of fwk-plugins": (
        any_command_line_of_fwk_plugins,
        words_of(PLUGINS_WORDS),
        50,
        3000,
    ),
    "command line of fwk-preprocess": (
        any_command_line_of_fwk_preprocess,
        words_of(PREPROCESS_FLAGS),
        40,
        3000,
    ),
    "option of fwk-preprocess": (
        any_command_line_of_fwk_preprocess,
        words_of(PREPROCESS_FLAGS).map(lambda words: [*MOSTLY_RIGHT, *words]),
        40,
        2000,
    ),
    "YAML": (any_text_as_yaml, YAML, 300, 30_000),
    "damaged config": (any_damaged_config, damaged_configs(), 60, 1500),
    "mapping": (
        any_mapping_as_config,
        st.dictionaries(st.sampled_from(TOPS), VALUES, max_size=3),
        100,
        3000,
    ),
    "value of an option": (
        any_value_of_any_option,
        st.tuples(st.sampled_from(options()), st.sampled_from(EXTREMES)),
        12,
        1500,
    ),
    "text for fwk-preprocess": (
        any_text_for_fwk_preprocess,
        st.tuples(
            FILES,
            KINDS,
            st.sampled_from(["empty-line", "line", "file"]),
            st.sampled_from(["16", "40", "300"]),
        ),
        25,
        1500,
    ),
    "text for task.data": (any_text_for_task_data, st.tuples(FILES, KINDS), 6, 300),
}
QUIET = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.mostly_slow("=mapping", "=damaged config")
def test_wrong_input_is_one_sentence_and_leaves_nothing(name):
    check, examples, few, _ = PROPERTIES[name]
    settings(max_examples=few, derandomize=True, **QUIET)(given(examples)(check))()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_much_wrong_input_is_one_sentence_and_leaves_nothing(name):
    check, examples, _, many = PROPERTIES[name]
    settings(max_examples=many, **QUIET)(given(examples)(check))()


# -- what hypothesis would not draw ----------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless_link(path: Path) -> None:
    path.symlink_to(path.name)


PLACES: dict[str, Callable[[Path], None]] = {
    "pipe": pipe,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": endless_link,
    "empty folder": Path.mkdir,
    "folder of folders": lambda path: (path / "a/b").mkdir(parents=True),
    "link to a device": lambda path: path.symlink_to("/dev/null"),
    "folder with a pipe": lambda path: (path.mkdir(), pipe(path / "a.txt")),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["fwk-preprocess", "fwk-train"])
def test_what_is_no_file_is_one_sentence(name, place):
    with empty_folder() as here:
        PLACES[place](here / "in")
        before = tree(here)
        if name == "fwk-preprocess":
            status, _, err = call(preprocess.main, ["in", "-o", "new/store", "--processes", "1"])
        else:
            status, _, err = call(train.main, ["--run", "r", "train.device=cpu", "task.data=in"])
        told(name, status, err, (2,))
        assert tree(here) == before


@pytest.mark.parametrize(
    "output",
    ["", ".", "..", "/", "x" * 300, "x.txt", "x.txt/store", "link", "/dev/null/store", "in"],
)
def test_a_place_where_no_store_can_be_is_one_sentence(output):
    with empty_folder() as here:
        (here / "x.txt").write_text(PROSE)
        (here / "in").mkdir()
        (here / "in/own").write_text("")
        (here / "link").symlink_to("nowhere")
        before = tree(here)
        status, _, err = call(
            preprocess.main, ["x.txt", "-o", output, "--vocabulary", "40", "--processes", "1"]
        )
        told("fwk-preprocess", status, err, (2,))
        assert tree(here) == before


@pytest.mark.parametrize("run", ["x.txt", "x.txt/run", "link", "/dev/null/run", "x" * 300, "a\0b"])
def test_a_place_where_no_run_can_be_is_one_sentence(run):
    with empty_folder() as here:
        (here / "x.txt").write_text("own")
        (here / "link").symlink_to("nowhere")
        before = tree(here)
        status, _, err = call(train.main, [*SMALL[:2], *SMALL[4:], "--run", run])
        told("fwk-train", status, err, (2,))
        assert tree(here) == before and (here / "x.txt").read_text() == "own"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 900_000,
        b"{" * 900_000,
        b"a: " * 300_000,
        b"- " * 400_000,
        b"x" * 1_000_001,
        (b"  " * 200 + b"a:\n") * 100,
        bomb(40, 9).encode(),
        b"a: &a [*a]\n",
        b"a: &a {<<: *a}\n",
        b"? [a]\n: b\n",
        "é: 1\n".encode("latin-1"),
        "a: 1\n".encode("utf-16"),
        b"a: !!python/object/new:os.system [ls]\n",
        b"train: {batch: 1" + b"0" * 5000 + b"}\n",
        b"seed: 1" + b"0" * 350 + b"\n",
        b"a: 1\na: 2\n",
        b"\ta: 1\n",
        b"a: \0\n",
        b"- a\n",
        b"a\n",
    ],
    ids=lambda data: data[:12].decode("ascii", "replace"),
)
def test_a_hostile_config_is_one_sentence(data):
    with empty_folder() as here:
        (here / "c.yaml").write_bytes(data)
        status, _, err = call(train.main, ["--config", "c.yaml", "--print-config"])
        told("fwk-train", status, err, (2,))
        assert "c.yaml" in err and len(err) < 600


def test_words_that_are_no_text_reach_the_message_as_they_can():
    """Arguments that are not UTF-8, as the system passes them, and a terminal that prints only ASCII."""
    import subprocess

    argv = [sys.executable, "-m", "fwk.cli.train", b"model=\xff\xfe", "--config=é"]
    done = subprocess.run(
        argv,
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert (
        done.returncode == 2
        and b"Traceback" not in done.stderr
        and done.stderr.startswith(b"fwk-train: error: ")
    )


LONG = 100_000_000
LINES = {
    "words": lambda: (b"the harbour is old " * (LONG // 19 + 1))[:LONG],
    "one letter": lambda: b"x" * LONG,
    "control characters": lambda: b"\x07" * LONG,
    "beyond ASCII": lambda: "日本語".encode() * (LONG // 9),
    "blanks": lambda: b" " * LONG,
    "zero bytes": lambda: bytes(LONG),
    "random bytes": lambda: random.Random(1).randbytes(LONG).replace(b"\n", b" "),
    "half a character": lambda: "é".encode() * (LONG // 2) + b"\xc3",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LINES)
def test_a_line_of_100_mb_is_a_store_or_one_sentence(kind):
    with empty_folder() as here:
        (here / "x.txt").write_bytes(LINES[kind]())
        status, _, err = call(
            preprocess.main,
            [
                "x.txt",
                "-o",
                "new/store",
                "--tokenizer",
                "byte_bpe",
                "--vocabulary",
                "300",
                "--processes",
                "1",
                "--sample-size",
                "0.1",
                "--valid-share",
                "0",
            ],
        )
        told("fwk-preprocess", status, err)
        assert (status == 0) == (
            kind in ("words", "one letter", "control characters", "beyond ASCII")
        ), err
        if status:
            assert tree(here) == ["x.txt"]
        else:
            # nothing was left out: one token may stand for very many characters
            tokenizer, counts = (
                load(here / "new/store/tokenizer"),
                np.load(here / "new/store/unigrams.npy", allow_pickle=False),
            )
            assert (
                sum(int(n) * len(tokenizer.token(i)) for i, n in enumerate(counts) if n) > LONG / 2
            )


@pytest.mark.slow
def test_a_json_record_of_100_mb_is_a_store():
    with empty_folder() as here:
        (here / "x.jsonl").write_bytes(
            b'{"text": "' + b"the harbour is old " * (LONG // 19) + b'"}\n'
        )
        status, _, err = call(
            preprocess.main,
            [
                "x.jsonl",
                "-o",
                "store",
                "--tokenizer",
                "byte_bpe",
                "--vocabulary",
                "300",
                "--processes",
                "1",
                "--sample-size",
                "0.1",
            ],
        )
        told("fwk-preprocess", status, err, (0,))
        shutil.rmtree(here / "store")
