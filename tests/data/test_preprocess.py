"""fwk-preprocess: every kind of input, the same output for any number of processes, resume after SIGKILL, and errors
that are one sentence."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import cache_with_index
from support.paths import ROOT

from fwk.cli.preprocess import main
from fwk.data import shards
from fwk.data.preprocess import Options, TokenizerSpec, build_store
from fwk.data.store import Store
from fwk.data.text import LONGEST_LINE, Reader, split_sentences
from fwk.errors import DataError
from fwk.files.kinds import UNFINISHED_STORE
from fwk.files.replacing import make_temporary, mark

DOCUMENTS = [
    f"The harbour of town {n} is old.\nIts {w} was built in {1800 + n}; nobody remembers why."
    for n in range(40)
    for w in ("bridge", "railway", "mill")
]
TEXT = "\n\n".join(DOCUMENTS) + "\n"


def command(*arguments, **other):
    return subprocess.Popen(
        [sys.executable, "-m", "fwk.cli.preprocess", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **other,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def texts(folder: Path) -> list[str]:
    store = Store(folder)
    tokenizer = store.tokenizer()
    return sorted(
        tokenizer.decode(store.split(s).document(d).tolist())
        for s in store.splits
        for d in range(store.split(s).documents)
    )


def expected() -> list[str]:
    return sorted(d.lower().replace("\n", " ") for d in DOCUMENTS)


def write(folder: Path, kind: str) -> Path:
    path = folder / f"text.{kind}"
    if kind == "txt.gz":
        path.write_bytes(gzip.compress(TEXT[:900].encode()) + gzip.compress(TEXT[900:].encode()))
    elif kind == "txt.xz":
        path.write_bytes(lzma.compress(TEXT.encode()))
    elif kind == "txt.zst":
        path.write_bytes(pytest.importorskip("zstandard").compress(TEXT.encode()))
    elif kind.startswith("jsonl"):
        data = "".join(json.dumps({"text": d, "n": 1}) + "\n" for d in DOCUMENTS).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    elif kind == "cr.txt":
        path.write_bytes(TEXT.replace("\n", "\r").encode())
    elif kind == "crlf.txt":
        path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    else:
        path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    "kind", ["txt", "txt.gz", "txt.xz", "txt.zst", "jsonl", "jsonl.gz", "crlf.txt", "cr.txt"]
)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, kind):
    path = write(tmp_path, kind)
    assert (
        main(
            [
                str(path),
                "-o",
                str(tmp_path / "s"),
                "--vocabulary",
                "300",
                "--processes",
                "1",
                "--quiet",
            ]
        )
        == 0
    )
    assert texts(tmp_path / "s") == expected()
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*"))


def test_folders_globs_and_several_inputs(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    half = len(DOCUMENTS) // 2
    (tmp_path / "in/a.txt").write_text("\n\n".join(DOCUMENTS[:half]))
    (tmp_path / "in/deep/b.md").write_text("\n\n".join(DOCUMENTS[half:]))
    (tmp_path / "in/skip.bin").write_bytes(b"\x00\xff")
    for n, named in enumerate(
        [["in"], ["in/a.txt", "in/deep/*.md"], ["in/**/*.txt", "in/deep"], ["in/a.txt", "in"]]
    ):
        out = build_store(
            [tmp_path / name for name in named], tmp_path / f"s{n}", TokenizerSpec(size=300)
        )
        assert texts(out) == expected()


def test_standard_input(tmp_path):
    process = command(
        "-", "-o", tmp_path / "s", "--vocabulary", 300, "--processes", 1, stdin=subprocess.PIPE
    )
    out, err = process.communicate(TEXT)
    assert process.returncode == 0, err
    assert texts(tmp_path / "s") == expected() and "fwk-train --task mlm task.data=" in out


def test_lines_and_files_as_documents(tmp_path):
    path = write(tmp_path, "txt")
    for documents, count in (("line", 2 * len(DOCUMENTS)), ("file", 1)):
        store = Store(
            build_store(
                [path],
                tmp_path / documents,
                TokenizerSpec(size=300),
                options=Options(documents=documents),
            )
        )
        assert sum(store.split(s).documents for s in store.splits) == count


def test_output_does_not_depend_on_processes_and_the_flag_valid_is_used(tmp_path):
    path = write(tmp_path, "txt")
    (tmp_path / "valid.txt").write_text("The old mill.\n\nThe bridge.")
    for n in (1, 3):
        arguments = [
            str(path),
            "-o",
            str(tmp_path / f"s{n}"),
            "--vocabulary",
            "300",
            "--shard-size",
            "0.001",
        ]
        assert (
            main(
                [
                    *arguments,
                    "--processes",
                    str(n),
                    "--quiet",
                    "--valid",
                    str(tmp_path / "valid.txt"),
                ]
            )
            == 0
        )
    assert content(tmp_path / "s1") == content(tmp_path / "s3")
    store = Store(tmp_path / "s1")
    assert store.split("valid").documents == 2 and store.split("train").documents == len(DOCUMENTS)
    assert len(store.split("train").shards) > 5


def test_held_out_documents_do_not_depend_on_shards(tmp_path):
    path = write(tmp_path, "txt")
    held = []
    for size in (1000, 100_000):
        store = Store(
            build_store(
                [path],
                tmp_path / str(size),
                TokenizerSpec(size=300),
                options=Options(shard_size=size, valid_share=0.2),
            )
        )
        split, tokenizer = store.split("valid"), store.tokenizer()
        held.append([tokenizer.decode(split.document(d).tolist()) for d in range(split.documents)])
    assert held[0] == held[1] and 10 < len(held[0]) < 40


def test_a_small_corpus_still_gets_something_to_validate_on(tmp_path):
    (tmp_path / "t.txt").write_text("One short document.\n\nAnother one.\n\nAnd a third.")
    store = Store(build_store([tmp_path / "t.txt"], tmp_path / "s", TokenizerSpec(size=100)))
    assert (store.split("train").documents, store.split("valid").documents) == (2, 1)


@pytest.mark.parametrize("documents", ["empty-line", "file"])
def test_a_text_that_is_one_document_is_named_as_such(tmp_path, capsys, documents):
    (tmp_path / "t.txt").write_text("\n".join(["one sentence a line ."] * 30))
    flags = ["--vocabulary", "300", "--documents", documents, "--processes", "1"]
    assert main([str(tmp_path / "t.txt"), "-o", str(tmp_path / "s"), *flags]) == 0
    said = capsys.readouterr()
    assert " tokens in 1 document\n" in said.out and "valid:" not in said.out
    assert "nothing can be held out for validation (--valid-share 0.01)" in said.err
    assert "is 1 document: " in said.err and "--documents line " in said.err
    assert "instead of --vocabulary=300: the text supports no more" in said.err


def test_the_same_command_again_changes_nothing_and_other_options_are_refused(tmp_path, capsys):
    path = write(tmp_path, "txt")
    arguments = [str(path), "-o", str(tmp_path / "s"), "--vocabulary", "300", "--processes", "1"]
    assert main(arguments) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    assert main(arguments) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    assert main([*arguments, "--cased"]) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--cased", "--overwrite"]) == 0
    assert before != {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}


def recorded_in(folder):
    """Return the names of the shards that an unfinished build of the store `s` has recorded."""
    records = folder.glob(".s.*.partial/record-*.json")
    return {path.name.removeprefix("record-").removesuffix(".json") for path in records}


@pytest.mark.slow
def test_killed_and_started_again_skips_finished_shards(tmp_path):
    path = tmp_path / "big.txt"
    path.write_text(TEXT * 150)
    arguments = [
        path,
        "--vocabulary",
        300,
        "--shard-size",
        0.05,
        "--sample-size",
        0.02,
        "--processes",
        2,
    ]
    whole = command(*arguments, "-o", tmp_path / "whole")
    assert whole.wait() == 0
    kills = 0
    for wanted in (1, 4, 9):
        process = command(*arguments, "-o", tmp_path / "s", start_new_session=True)
        while process.poll() is None and len(recorded_in(tmp_path)) < wanted:
            time.sleep(0.002)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "s").exists() or process.returncode == 0
        time.sleep(0.7)  # the processes of a killed parent end by themselves
    finished = {p: p.stat().st_mtime_ns for p in tmp_path.glob(".s.*.partial/train-*.tokens")}
    recorded = recorded_in(tmp_path)
    last = command(*arguments, "-o", tmp_path / "s")
    assert last.wait() == 0, last.stderr.read()
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    assert kills and recorded
    for old, modified in finished.items():
        if old.stem in recorded:
            assert (tmp_path / "s" / old.name).stat().st_mtime_ns == modified


@pytest.mark.parametrize(
    "plan", ["", "{", "[]", "null", '{"asked": 1}', '{"asked": {}, "plans": {}}', "\x00"]
)
@pytest.mark.mostly_slow("null")
def test_a_damaged_plan_of_an_interrupted_run_is_made_again(tmp_path, plan):
    path = write(tmp_path, "txt")
    arguments = (path, "--vocabulary", "60", "--quiet")
    whole = command(*arguments, "-o", tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    partial = make_temporary(tmp_path / "s", ".partial")
    mark(partial, UNFINISHED_STORE)
    (partial / "plan.json").write_text(plan)
    (partial / "train-0.tokens").write_text("of another plan")
    ended = command(*arguments, "-o", tmp_path / "s")
    assert ended.wait() == 0, ended.stderr.read()
    assert content(tmp_path / "s") == content(tmp_path / "whole") and not partial.exists()


@pytest.mark.slow
def test_memory_stays_bounded_for_one_huge_line(tmp_path):
    path = tmp_path / "line.txt"
    with open(path, "w") as file:
        for _ in range(400):
            file.write("the bridge over the river is old and " * 2800)
    assert path.stat().st_size > 40e6
    tokenizer = (
        build_store([write(tmp_path, "txt")], tmp_path / "t", TokenizerSpec(size=300)) / "tokenizer"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))

    process = command(
        path,
        "-o",
        tmp_path / "s",
        "--tokenizer",
        tokenizer,
        "--processes",
        1,
        "--shard-size",
        1,
        preexec_fn=limit,
    )
    assert process.wait() == 0, process.stderr.read()
    assert Store(tmp_path / "s").split("train").tokens > 8e6


def test_long_lines_are_cut_at_blanks_and_nothing_is_lost(tmp_path):
    words = [f"word{n}" for n in range(200_000)]
    (tmp_path / "t.txt").write_text(
        " ".join(words) + "\nnext line\n" + "x" * (3 * LONGEST_LINE) + "é" * 10
    )
    (document,) = Reader([str(tmp_path / "t.txt")])
    assert max(map(len, document.lines)) <= LONGEST_LINE
    assert " ".join(document.lines).split()[:200_002] == [*words, "next", "line"]
    assert "".join(document.lines[-4:]).endswith("é" * 10)


def test_sentences_are_cut_without_loss():
    line = 'Dr Lee built it in 1905. "Why?" asked Ann. It cost 3.5 million, e.g. for steel! (Nobody paid.) The end.'
    pieces = split_sentences([line])
    assert " ".join(pieces) == line and len(pieces) == 5


def test_sentences_do_not_depend_on_what_is_encoded_together_and_those_without_tokens_are_left_out(
    monkeypatch,
):
    class Words:
        def encode_batch(self, texts):
            return [[len(word) for word in text.split() if word.isalpha()] for text in texts]

    documents = [
        ("The old bridge over the river is closed. Boats pass below it. 12",),
        ("1 2", "3"),
        ("a mill", "4", "b"),
    ]
    arrays = []
    for batch in (1, 2, 100):
        monkeypatch.setattr(shards, "_BATCH", batch)
        arrays.append(
            {
                name: values.tolist()
                for name, values in shards.encode_documents(documents, Words(), "uint16").items()
            }
        )
    assert (
        arrays[0]
        == arrays[1]
        == arrays[2]
        == {
            "tokens": [3, 3, 6, 4, 3, 5, 2, 5, 4, 5, 1, 4, 1],
            "documents": [0, 10, 13],
            "sentences": [0, 7, 10, 12, 13],
        }
    )


@pytest.mark.parametrize(
    "name, data, message",
    [
        (
            "a.txt",
            "\u200b\u200b\n\u200b".encode(),
            "there is no text to train a tokenizer on: it is empty",
        ),
        ("latin1.txt", "fine\ncaf\xe9\n".encode("latin-1"), "latin1.txt, line 2: not UTF-8"),
        ("binary.txt", b"MZ\x00\x01", "binary.txt, line 1: this is not text"),
        ("utf16.txt", "hello".encode("utf-16"), "line 1: the file is UTF-16"),
        ("empty.txt", b"", "there is no text in"),
        ("blank.txt", b"\n \n\n", "there is no text in"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "bad.jsonl, line 2: not a JSON object"),
        (
            "field.jsonl",
            b'{"txet": "a"}\n',
            "line 1: the record has no field 'text'. Did you mean 'txet'",
        ),
        ("type.jsonl", b'{"text": 3}\n', "line 1: the field 'text' is int"),
        ("list.jsonl", b"[1]\n", "line 1: expected a JSON object"),
        ("cut.txt.xz", lzma.compress(TEXT.encode())[:200], "cut.txt.xz is damaged"),
        (
            "fake.txt.gz",
            b"plain text",
            "fake.txt.gz is damaged, or its suffix names the wrong format",
        ),
        ("cut.txt.gz", gzip.compress(TEXT.encode(), mtime=0)[:100], "cut.txt.gz is damaged"),
    ],
)
def test_input_that_cannot_be_used_is_one_sentence(tmp_path, capsys, name, data, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(tmp_path / "in" / name), "-o", str(tmp_path / "s"), "--processes", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tekst.txt"], "Did you mean 'text.txt'"),
        (["text.txt", "--tokenizer", "unigramm"], "Did you mean 'unigram'"),
        (["text.txt", "--tokenizer", "./no.model"], "there is no tokenizer at"),
        (["text.txt", "--valid-share", "1.5"], "expected a share"),
        (
            ["text.txt", "--tokenizer", ".", "--cased"],
            "--cased: has no effect, because --tokenizer",
        ),
        (["text.txt", "--tokenizer", ".", "--vocabulary", "20"], "--vocabulary: has no effect"),
        (["text.txt", "--tokenizer", ".", "--sample-size", "1"], "--sample-size: has no effect"),
        (
            ["text.txt", "--vocabulary", "3"],
            "--vocabulary: expected a whole number from 16 to 10,000,000, got 3",
        ),
        (["text.txt", "--processes", "0"], "--processes"),
        (["none"], "holds no text file"),
        (["text.txt", "--valid", "txet.txt"], "Did you mean 'text.txt'"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, capsys, monkeypatch, arguments, message):
    write(tmp_path, "txt")
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "-o", "s"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["none", "text.txt"]


def test_an_output_that_is_something_else_is_left_alone(tmp_path, capsys):
    path = write(tmp_path, "txt")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/precious").write_text("x")
    assert main([str(path), "-o", str(tmp_path / "s"), "--overwrite"]) == 2
    assert (
        "exists and is not a token store" in capsys.readouterr().err
        and (tmp_path / "s/precious").exists()
    )


def test_help_imports_no_torch_and_is_fast():
    code = (
        "import sys; from fwk.cli.preprocess import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - began < 3


def test_preprocessing_imports_no_torch(tmp_path):
    arguments = [
        str(write(tmp_path, "txt")),
        "-o",
        str(tmp_path / "s"),
        "--vocabulary",
        "300",
        "--quiet",
        "--processes",
        "1",
    ]
    code = (
        f"import sys; from fwk.cli.preprocess import main\nassert main({arguments!r}) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={**os.environ})


def test_two_at_once_build_one_store(tmp_path):
    path = write(tmp_path, "txt")
    both = [
        command(path, "-o", tmp_path / "s", "--vocabulary", 300, "--processes", 1) for _ in range(2)
    ]
    assert [p.wait() for p in both] == [0, 0]
    assert texts(tmp_path / "s") == expected()


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["build_store", "train"])
def test_a_script_without_a_main_guard_is_one_sentence_at_once(tmp_path, entry):
    """Its processes would wait for the lock that the script holds."""
    path = write(tmp_path, "txt")
    options = "TokenizerSpec(size=200), options=Options(shard_size=900), processes=2"
    calls = {
        "build_store": f"build_store([{str(path)!r}], {str(tmp_path / 's')!r}, {options})",
        "train": f"import fwk; fwk.train(run={str(tmp_path / 's')!r}, **{{'task.data': {str(path)!r}, "
        "'task.processes': 2, 'train.updates': 1, 'model.layers': 1, 'train.device': 'cpu'})",
    }
    script = tmp_path / "script.py"
    script.write_text(
        f"from fwk.data.preprocess import Options, TokenizerSpec, build_store\n{calls[entry]}\n"
    )
    environment = {**os.environ, "FWK_CACHE": cache_with_index(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=False,
    )
    *_, last = done.stderr.splitlines()
    assert last.startswith("fwk.errors.UserError: tokenizing with processes=2 starts processes")
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert not (tmp_path / "s").exists() and not (tmp_path / "s.partial").exists()


def test_errors_carry_the_file_when_reading_fails_late(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_bytes(TEXT.encode() + b"\xff")
    with pytest.raises(DataError, match=f"b.txt, line {TEXT.count(chr(10)) + 1}: not UTF-8"):
        build_store([tmp_path], tmp_path / "s", TokenizerSpec(size=300))
    assert not list(tmp_path.glob("*.partial"))
