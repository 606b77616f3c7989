"""Encoders of sentence vectors as `sentence-transformers` reads them: the layout, and the same vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fwk
from fwk.cli import export as export_command
from fwk.errors import ConfigError, RunError
from fwk.files.kinds import EXPORT
from fwk.hf import sentence_vectors
from fwk.hf.exporting import export
from fwk.nn.pooling import pooled

transformers = pytest.importorskip("transformers")

TEXTS = ["the old dog sees a cat", "a red bird", "tree", "the small house sees the old red book"]
MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "last": "pooling_mode_lasttoken",
}
SIZES = {"layers": 1, "width": 16, "heads": 2, "length": 24}
CONFIG = {
    "model": {"name": "bert", **SIZES, "positions": "learned", "initialisation": "fan_in"},
    "train": {"updates": 1, "batch": 4, "device": "cpu", "save_every": 0},
    "hooks": {"terminal": None, "tensorboard": None, "summary": None},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("\n\n".join(TEXTS * 4), encoding="utf-8")
    task = {"name": "mlm", "data": str(folder / "text.txt"), "length": 16, "vocabulary": 80}
    config = {**CONFIG, "task": {**task, "tokenizer": "wordpiece"}, "criterion": "masked_lm"}
    return fwk.train(config, run=str(folder / "run")).folder


def as_the_library_does(folder: Path, texts: list[str]) -> torch.Tensor:
    """The vectors of texts by the files of the layout, written from the library's documentation."""
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].split(".")[-1] for module in modules] == ["Transformer", "Pooling"]
    encoder = transformers.AutoModel.from_pretrained(folder / modules[0]["path"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
    )
    with torch.no_grad():
        features = encoder(**inputs).last_hidden_state
    pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == features.shape[-1]
    (mode,) = (name for name, value in pooling.items() if name.startswith("pooling_") and value)
    vectors = []
    for row, mask in zip(features, inputs["attention_mask"].bool()):
        content = row[mask]
        vectors.append(
            {
                "pooling_mode_cls_token": content[0],
                "pooling_mode_mean_tokens": content.mean(0),
                "pooling_mode_max_tokens": content.amax(0),
                "pooling_mode_lasttoken": content[-1],
            }[mode]
        )
    return torch.stack(vectors)


@pytest.mark.parametrize("pooling", MODES)
@pytest.mark.mostly_slow("mean", "cls")
def test_the_layout_gives_the_vectors_of_fwk(run, tmp_path, pooling):
    loaded = fwk.load(run)
    exported = export(loaded, tmp_path / "st", sentence_transformers=True, pooling=pooling)
    assert (exported.class_name, exported.pooling) == ("BertModel", pooling)
    assert exported.differences["vectors, float32"] < 1e-5
    names = {
        path.relative_to(tmp_path / "st").as_posix()
        for path in (tmp_path / "st").rglob("*")
        if path.is_file()
    }
    assert all(EXPORT.owns(name) for name in names)
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        assert name in names

    theirs = as_the_library_does(tmp_path / "st", TEXTS)
    for text, vector in zip(TEXTS, theirs):
        ids = loaded.tokenizer.encode(text)
        tokens = torch.tensor([[loaded.tokenizer.cls, *ids, loaded.tokenizer.sep]])
        batch = loaded.task.batch_of(tokens.numpy())
        view = sentence_vectors.View.from_batch(batch)
        with torch.no_grad():
            view = view.replace(encoded=loaded.model(view.inputs, view.mask))
        torch.testing.assert_close(vector, pooled(view, pooling)[0], atol=1e-5, rtol=0)


def test_wrong_vectors_are_found_and_nothing_is_written(run, tmp_path, monkeypatch):
    modes = {**MODES, "mean": MODES["max"], "max": MODES["mean"]}
    monkeypatch.setattr(sentence_vectors, "POOLINGS", modes)
    with pytest.raises(RunError, match="transformers gives other vectors, float64"):
        export(fwk.load(run), tmp_path / "st", sentence_transformers=True)
    assert not list(tmp_path.iterdir())


def test_the_command_replaces_its_own_layout_and_names_the_pooling(run, tmp_path, capsys):
    arguments = [str(run), str(tmp_path / "st"), "--sentence-transformers"]
    assert export_command.main(arguments) == 0
    assert "sentence vectors by the pooling 'mean'" in capsys.readouterr().out
    card = (tmp_path / "st" / "README.md").read_text(encoding="utf-8")
    assert "library_name: sentence-transformers" in card and "SentenceTransformer(" in card
    assert export_command.main([*arguments, "--overwrite", "--pooling", "cls"]) == 0
    assert export_command.main([str(run), str(tmp_path / "x"), "--pooling", "cls"]) == 2
    assert "--pooling: belongs to --sentence-transformers" in capsys.readouterr().err
    assert export_command.main([str(run), str(tmp_path / "st"), "--overwrite"]) == 0
    assert not (tmp_path / "st" / "modules.json").exists()


def test_a_run_that_compares_vectors_is_exported_with_its_pooling(tmp_path):
    pairs = [f"{TEXTS[n % 4]}\t{TEXTS[(n + 1) % 4]}\t{n % 6}" for n in range(12)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *pairs]) + "\n")
    task = {"name": "examples", "data": str(tmp_path / "pairs.tsv"), "kind": "number"}
    texts = {"texts": ["sentence1", "sentence2"], "label": "label", "vocabulary": 80}
    config = {
        **CONFIG,
        "task": {**task, **texts, "tokenizer": "wordpiece", "length": 20},
        "criterion": {"similarity": {"pooling": "max"}},
    }
    loaded = fwk.load(fwk.train(config, run=str(tmp_path / "run")).folder)
    exported = export(loaded, tmp_path / "st")
    assert (exported.by, exported.pooling) == ("similarity", "max")
    theirs = as_the_library_does(tmp_path / "st", TEXTS)
    cosine = torch.cosine_similarity(theirs[0], theirs[1], dim=0)
    (ours,) = loaded.predict([(TEXTS[0], TEXTS[1])])
    assert (
        abs(5 * float(cosine) - ours["label"]["prediction"]) < 1e-5
    )  # in the unit of the labels: 0 to 5
    assert export(loaded, tmp_path / "encoder", by="encoder").pooling is None


def test_a_head_goes_before_vectors_and_the_layout_must_have_the_pooling(
    run, tmp_path, monkeypatch
):
    loaded = fwk.load(run)
    criterion = type(loaded.module.criteria["masked_lm"])
    monkeypatch.setattr(criterion, "pooling_of_vectors", lambda self: "max")
    assert export(loaded, tmp_path / "head").class_name == "BertForMaskedLM"
    assert export(loaded, tmp_path / "by", by="masked_lm").pooling == "max"
    monkeypatch.setattr(criterion, "pooling_of_vectors", lambda self: "mean of layer 1")
    with pytest.raises(ConfigError, match="has no 'mean of layer 1'; expected one of cls, mean"):
        export(loaded, tmp_path / "layer", by="masked_lm")
