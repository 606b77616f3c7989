"""The original files of GLUE, and others with the same columns, become labelled examples."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from support.paths import SHARED

from fwk.data.labelled import Labelled
from fwk.data.layouts.glue import TASKS, glue_task, open_glue, submission
from fwk.data.tables import BadRow
from fwk.errors import DataError, UnknownName, UserError

PARSES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
MNLI = f"index\tpromptID\tpairID\tgenre\t{PARSES}\tsentence1\tsentence2"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
# task -> split -> the lines of an original file
ORIGINALS = {
    "cola": {
        "train": ["gj04\t1\t\tA \"b.", "gj04\t0\t*\tC d."],
        "test": ["index\tsentence", "0\tA \"b.", "1\tC d."],
    },
    "sst2": {"dev": ["sentence\tlabel", "a \t1", "b\t0"], "test": ["index\tsentence", "0\ta ", "1\tb"]},
    "mrpc": {
        "train": ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\tA " b\tC', "0\t9\t3\tD\tE"],
        "test": ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", '0\t7\t8\tA " b\tC', "1\t9\t3\tD\tE"],
    },
    "stsb": {
        "train": [f"{STSB}\tscore", "0\tnews\tf\t1\t2\tn\tn\tA\tB\t5.000", "1\tnews\tf\t1\t2\tn\tn\tC\tD\t0.25"],
        "test": [STSB, "0\tnews\tf\t1\t2\tn\tn\tA\tB", "1\tnews\tf\t1\t2\tn\tn\tC\tD"],
    },
    "qqp": {
        "train": ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t5\t6\tA\tB\t0", "1\t5\t6\tC\tD\t1"],
        "test": ["id\tquestion1\tquestion2", "0\tA\tB", "1\tC\tD"],
    },
    "mnli": {
        "train": [f"{MNLI}\tlabel1\tgold_label", "0\t1\t1\tfiction\tp\tp\tp\tp\tA\tB\tneutral\tneutral",
                  "1\t1\t1\tfiction\tp\tp\tp\tp\tC\tD\tneutral\tentailment"],
        "test_matched": [MNLI, "0\t1\t1\tfiction\tp\tp\tp\tp\tA\tB", "1\t1\t1\tfiction\tp\tp\tp\tp\tC\tD"],
    },
    "qnli": {
        "train": ["index\tquestion\tsentence\tlabel", "0\tA\tB\tentailment", "1\tC\tD\tnot_entailment"],
        "test": ["index\tquestion\tsentence", "0\tA\tB", "1\tC\tD"],
    },
    "rte": {
        "train": ["index\tsentence1\tsentence2\tlabel", "0\tA\tB\tentailment", "1\tC\tD\tnot_entailment"],
        "test": ["index\tsentence1\tsentence2", "0\tA\tB", "1\tC\tD"],
    },
    "wnli": {
        "train": ["index\tsentence1\tsentence2\tlabel", "0\tA\tB\t1", "1\tC\tD\t0"],
        "test": ["index\tsentence1\tsentence2", "0\tA\tB", "1\tC\tD"],
    },
}  # fmt: skip
FILES = [(task, split) for task, splits in ORIGINALS.items() for split in splits]
FIRST_LABEL = {
    "cola": "1", "sst2": "1", "mrpc": "1", "stsb": 5.0, "qqp": "0", "mnli": "neutral", "qnli": "entailment",
    "rte": "entailment", "wnli": "1",
}  # fmt: skip


def write(folder: Path, split: str, lines: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.tsv"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def originals(tmp_path: Path, task: str, split: str) -> list[Labelled]:
    write(tmp_path / TASKS[task].folder, split, ORIGINALS[task][split])
    return list(open_glue(task, str(tmp_path)).read(split))


@pytest.mark.parametrize("task, split", FILES)
def test_original_files_become_examples(tmp_path, task, split):
    first, second = originals(tmp_path, task, split)
    names = list(TASKS[task].texts)
    assert first.place.startswith(str(tmp_path / TASKS[task].folder / f"{split}.tsv:"))
    assert (first.key, second.key) == ("0", "1")
    assert list(first.texts) == names
    fields = [line.split("\t") for line in ORIGINALS[task][split][-2:]]
    for example, line in zip((first, second), fields):
        assert [text for text in line if text in example.texts.values()] == [
            *example.texts.values()
        ]
    assert first.labels == ({} if "test" in split else {"label": FIRST_LABEL[task]})


def test_both_validation_sets_of_mnli_are_splits_and_their_genre_is_kept(tmp_path):
    for split in ("dev_matched", "dev_mismatched"):
        write(tmp_path, split, ORIGINALS["mnli"]["train"])
    files = open_glue("mnli", str(tmp_path))
    assert list(files.files) == ["dev_matched", "dev_mismatched"]
    assert next(files.read("dev_mismatched")).extra == {"genre": "fiction"}
    with pytest.raises(DataError, match="no file of the split 'dev'. Available: dev_matched"):
        files.read("dev")


def test_the_diagnostic_set_is_found_in_its_folder(tmp_path):
    write(tmp_path / "diagnostic", "diagnostic", ["index\tsentence1\tsentence2", "0\tA\tB"])
    (example,) = open_glue("ax", str(tmp_path)).read("test")
    assert example.texts == {"premise": "A", "hypothesis": "B"}


def test_other_columns_are_recognised_by_their_names(tmp_path):
    lines = ["index\tsource\tsentence1\tsentence2\tgold_label", "7\tx\tA\tB\tneutral"]
    path = write(tmp_path / "MNLI", "train", lines)
    path.with_suffix(".tsv.xz").write_bytes(lzma.compress(path.read_bytes()))
    path.unlink()
    files = open_glue("mnli", str(tmp_path))
    (example,) = files.read("train")
    assert (example.key, example.labels) == ("7", {"label": "neutral"})
    assert example.texts == {"premise": "A", "hypothesis": "B"}


@pytest.mark.parametrize(
    "lines, reason",
    [
        (["index\tsentence1\tsentence2\tlabel", "0\tA\tB\tneutral"], "unknown label 'neutral'"),
        (["index\tsentence1\tsentence2\tlabel", "0\tA\tB"], "the row has 3 columns, expected 4"),
    ],
)
def test_a_bad_row_is_named_or_left_out(tmp_path, lines, reason):
    path = write(tmp_path, "train", [*lines, "1\tC\tD\tentailment"])
    files = open_glue("rte", str(tmp_path))
    with pytest.raises(BadRow, match=reason):
        list(files.read("train"))
    bad: list[BadRow] = []
    assert [e.texts["sentence1"] for e in files.read("train", bad.append)] == ["C"]
    assert [error.place for error in bad] == [f"{path}:2"]


def test_a_similarity_out_of_range_is_refused(tmp_path):
    write(tmp_path, "dev", ["sentence1\tsentence2\tscore", "A\tB\t5.5"])
    with pytest.raises(BadRow, match="expected a similarity from 0 to 5, got 5.5"):
        list(open_glue("stsb", str(tmp_path)).read("dev"))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UnknownName, match="Unknown task of GLUE 'sts-b'"):
        open_glue("sts-b", str(tmp_path))
    with pytest.raises(DataError, match="there is no folder"):
        open_glue("rte", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"no files of GLUE's rte \(looked for train, dev, test"):
        open_glue("rte", str(tmp_path))
    write(tmp_path, "train", ["a\tb", "1\t2"])
    with pytest.raises(
        DataError, match="expected a first line with sentence1/#1 String, sentence2"
    ):
        open_glue("mrpc", str(tmp_path)).read("train")
    write(tmp_path, "train", [])
    with pytest.raises(DataError, match="is empty"):
        open_glue("mrpc", str(tmp_path)).read("train")


def test_a_submission_has_the_layout_that_glue_expects():
    mnli, stsb = glue_task("mnli"), glue_task("stsb")
    given = [("0", "neutral"), ("1", "entailment")]
    assert submission(mnli, given) == "index\tprediction\n0\tneutral\n1\tentailment\n"
    assert submission(stsb, [("0", 1.23456), ("1", 5.2), ("2", -0.1)]) == (
        "index\tprediction\n0\t1.235\n1\t5.000\n2\t0.000\n"
    )
    with pytest.raises(UserError, match="mnli has no class 'entailed'. Did you mean 'entailment'"):
        submission(mnli, [("0", "entailed")])


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "glue").is_dir(), reason="the data sets are not there")
@pytest.mark.parametrize("task", [task for task in TASKS if task != "ax"])
def test_every_row_of_real_files_is_an_example(task):
    files = open_glue(task, str(SHARED / "glue"))
    for split, file in files.files.items():
        rows = len(lzma.decompress(Path(file).read_bytes()).rstrip(b"\n").split(b"\n"))
        has_header = task != "cola"
        examples = list(files.read(split))
        assert len(examples) == rows - has_header
        assert all(example.labels for example in examples)
