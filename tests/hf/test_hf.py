"""To and from Hugging Face `transformers`: features, logits, tokens, round trips, and what does not fit."""

from __future__ import annotations

import json
import lzma
import random

import pytest
import torch

import fwk
from fwk.cli import export as export_command
from fwk.cli import import_checkpoint as import_command
from fwk.cli import score as score_command
from fwk.data import tokenizers
from fwk.engine import fitting
from fwk.engine.build import build_module
from fwk.engine.saving.state import model_tensors
from fwk.errors import ConfigError, DataError, RunError
from fwk.hf import exporting
from fwk.hf.exporting import export
from fwk.hf.importing import import_folder
from fwk.hf.tokenizer import SAMPLES, compare, write
from fwk.runs.untrained import untrained_parts
from fwk.scoring.scorer import Scorer
from fwk_plugins.cvt.models.pretrained import load_pretrained

transformers = pytest.importorskip("transformers")

SIZES = {"layers": 2, "width": 32, "heads": 4, "positions": "learned", "initialisation": "fan_in"}
GENERATOR = {"corrupted": {"network": {"width": 0.5}}}
RUNS = {
    "bert": {"criterion": "masked_lm"},
    "untied": {"criterion": {"masked_lm": {"tied_output": False}}},
    "without_segments": {"criterion": "masked_lm", "model": {"segments": 0}},
    "without_positions": {"criterion": "masked_lm", "model": {"positions": "none"}},
    "semantic_augment": {"criterion": "semantic_augment"},
    "electra": {
        "criterion": "replaced_token_detection",
        "model": {"embedding": 16},
        "views": GENERATOR,
    },
    "factorised": {"criterion": "masked_lm", "model": {"embedding": 16}},
    "two_heads": {
        "criterion": {"masked_lm": {}, "replaced_token_detection": {}},
        "views": GENERATOR,
    },
    "relative": {"criterion": "masked_lm", "model": {"positions": "relative"}},
    "pre": {"criterion": "masked_lm", "model": {"norm": "pre"}},
    "eps": {"criterion": "masked_lm", "model": {"norm_eps": 1e-5}},
    "towers": {"criterion": "cloze", "model": {"name": "two_tower"}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function: name, kind of tokenizer -> a run's folder."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text(
        "\n\n".join(
            f"the {a} {b} sees a {c} ."
            for a in ("old", "small", "red")
            for b in ("dog", "cat", "bird")
            for c in ("book", "tree", "house")
        )
        * 4,
        encoding="utf-8",
    )
    made = {}

    def run(name: str, kind: str = "wordpiece"):
        if (name, kind) not in made:
            options = RUNS[name]
            made[name, kind] = fwk.train(
                {
                    **options,
                    "task": {
                        "name": "mlm",
                        "data": str(text),
                        "length": 16,
                        "vocabulary": 300,
                        "tokenizer": kind,
                    },
                    "model": {"name": "bert", **SIZES, **options.get("model", {})},
                    "optimizer": {"name": "adamw", "lr": 1e-3},
                    "train": {"updates": 2, "batch": 4, "device": "cpu", "save_every": 0},
                    "hooks": {"terminal": None, "tensorboard": None, "summary": None},
                },
                run=str(folder / f"{name}-{kind}"),
            ).folder
        return made[name, kind]

    return run


def inputs(vocabulary: int, segments: bool = True):
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(vocabulary, (5, 13), generator=generator)
    mask = torch.arange(13) < torch.tensor([[13], [9], [1], [13], [4]])
    pairs = (torch.arange(13) > torch.tensor([[6], [3], [13], [1], [2]])).long() * int(segments)
    return tokens, mask, pairs


@pytest.mark.parametrize(
    "name, by, class_name",
    [
        ("bert", None, "BertForMaskedLM"),
        ("untied", None, "BertForMaskedLM"),
        ("bert", "encoder", "BertModel"),
        ("without_segments", None, "BertForMaskedLM"),
        ("without_positions", None, "BertForMaskedLM"),
        ("semantic_augment", None, "BertForMaskedLM"),
        ("electra", None, "ElectraForPreTraining"),
        ("electra", "corrupted", "ElectraForMaskedLM"),
        ("factorised", None, "ElectraForMaskedLM"),
        ("electra", "encoder", "ElectraModel"),
        ("two_heads", "masked_lm", "ElectraForMaskedLM"),
    ],
)
@pytest.mark.mostly_slow("electra-None", "two_heads", "ElectraModel")
def test_transformers_gives_the_same_features_and_logits(runs, tmp_path, name, by, class_name):
    loaded = fwk.load(runs(name))
    exported = export(loaded, tmp_path / "hf", by)
    assert exported.class_name == class_name and {
        path.name for path in (tmp_path / "hf").iterdir()
    } >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    }
    extra = {"add_pooling_layer": False} if class_name == "BertModel" else {}
    theirs = getattr(transformers, class_name).from_pretrained(tmp_path / "hf", **extra).eval()
    tokens, mask, pairs = inputs(theirs.config.vocab_size, name != "without_segments")
    part = exporting.find_part(loaded, by)
    with torch.no_grad():
        features = part.encoder({"tokens": tokens, "segments": pairs}, mask).features
        base = theirs if class_name.endswith("Model") else getattr(theirs, theirs.base_model_prefix)
        their_inputs = {"input_ids": tokens, "attention_mask": mask.long(), "token_type_ids": pairs}
        torch.testing.assert_close(
            features[mask], base(**their_inputs).last_hidden_state[mask], atol=1e-5, rtol=0
        )
        if part.head is not None:
            logits = part.head(features)
            logits = logits.squeeze(-1) if logits.shape[-1] == 1 else logits
            torch.testing.assert_close(
                logits[mask], theirs(**their_inputs).logits[mask], atol=1e-5, rtol=0
            )


def test_the_wrong_weights_are_found_and_nothing_is_written(runs, tmp_path, monkeypatch):
    right = exporting.to_transformers

    def wrong(tensors, pairs):
        made = right(tensors, pairs)
        name = next(name for name in made if "intermediate" in name and name.endswith("bias"))
        return {**made, name: made[name] + 1e-3}

    monkeypatch.setattr(exporting, "to_transformers", wrong)
    with pytest.raises(RunError, match="transformers gives other features, float64 than fwk"):
        export(fwk.load(runs("bert")), tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(runs, tmp_path, monkeypatch, capsys):
    from safetensors import SafetensorError

    def full(*arguments, **keywords):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    assert export_command.main([str(runs("bert")), str(tmp_path / "hf")]) == 1
    assert "the weights could not be written" in capsys.readouterr().err and not list(
        tmp_path.iterdir()
    )


def test_wrong_tokens_are_found_and_nothing_is_written(runs, tmp_path):
    loaded = fwk.load(runs("bert"))
    write(loaded.tokenizer, tmp_path, 16)
    file = tmp_path / "tokenizer.json"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"lowercase": true', '"lowercase": false'),
        encoding="utf-8",
    )
    with pytest.raises(DataError, match="gives other ids than fwk's"):
        compare(loaded.tokenizer, tmp_path)


@pytest.mark.parametrize(
    "name, said",
    [
        ("relative", "model.positions: .*no 'relative'; they have learned or none"),
        ("pre", "model.norm: .*no 'pre'"),
        (
            "eps",
            "model.norm_eps: transformers uses 1e-05 .layer_norm_eps. in the masked-LM head too",
        ),
        ("towers", "model.name: TwoTower has no counterpart"),
        (
            "two_heads",
            "several criteria have a head; name one of masked_lm, replaced_token_detection",
        ),
    ],
)
def test_what_the_families_cannot_hold_is_refused_with_the_reason(runs, tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        export(fwk.load(runs(name)), tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_a_family_that_does_not_hold_it_is_refused(runs, tmp_path):
    for name, said in (
        ("factorised", "bert has no embedding of another width"),
        ("electra", "'bert' has no head of the kind"),
    ):
        with pytest.raises(ConfigError, match=said):
            export(fwk.load(runs(name)), tmp_path / "hf", family="bert")
    assert (
        export(fwk.load(runs("bert")), tmp_path / "hf", family="electra").class_name
        == "ElectraForMaskedLM"
    )


# -- tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece", "byte_bpe"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.mostly_slow("=True-wordpiece", "=False-byte_bpe")
def test_a_thousand_lines_have_the_same_ids(shared_data, tmp_path, kind, lower):
    """Of real text, accents, emoji, CJK and control characters among them."""
    file = shared_data / "text" / "wikipedia-en.train.txt.xz"
    with lzma.open(file, "rt", encoding="utf-8") as text:
        lines = [line for line in text.read(4_000_000).split("\n") if line.strip()]
    random.Random(1).shuffle(lines)
    german = (
        lzma.decompress((shared_data / "multi30k-val-even.de.xz").read_bytes())
        .decode()
        .splitlines()
    )
    tokenizer = tokenizers.train(lines[:2000], kind, 2000, lower)
    write(tokenizer, tmp_path, 512)
    texts = [*SAMPLES, *lines[2000:3000], *german[:100]]
    odd = "\U0001f9e1\u4e00\u00e9\u0301\u200b\x07\u00a0"
    texts += [
        line[:20] + odd[i % len(odd)] + line[20:60] for i, line in enumerate(lines[3000:3200])
    ]
    assert len(texts) > 1200
    compare(tokenizer, tmp_path, texts)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    framed = theirs("hello there", "you")
    assert framed["input_ids"][0] == tokenizer.cls and framed["input_ids"].count(tokenizer.sep) == 2
    assert set(framed["token_type_ids"]) == {0, 1} and theirs.mask_token_id == tokenizer.mask


@pytest.mark.parametrize("kind", ["unigram", "bpe", "byte_bpe"])
@pytest.mark.slow
def test_every_kind_goes_out_and_comes_back(runs, tmp_path, kind):
    export(fwk.load(runs("bert", kind)), tmp_path / "hf")
    import_folder(tmp_path / "hf", tmp_path / "run")
    mine, back = fwk.load(runs("bert", kind)).tokenizer, fwk.load(tmp_path / "run").tokenizer
    for text in (*SAMPLES, "the old dog sees a tree ."):
        assert back.encode(text) == mine.encode(text)
    assert (back.cls, back.sep, back.mask, back.pad, back.size) == (
        mine.cls,
        mine.sep,
        mine.mask,
        mine.pad,
        mine.size,
    )


# -- back ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, by",
    [
        ("bert", None),
        ("untied", None),
        ("electra", None),
        ("electra", "corrupted"),
        ("factorised", None),
    ],
)
def test_a_round_trip_keeps_every_bit(runs, tmp_path, name, by):
    loaded = fwk.load(runs(name))
    export(loaded, tmp_path / "hf", by)
    imported = import_folder(tmp_path / "hf", tmp_path / "run")
    assert not imported.left_behind
    back = fwk.load(tmp_path / "run")
    before, after = exporting.find_part(loaded, by), exporting.find_part(back, imported.by)
    for mine, theirs in ((before.encoder, after.encoder), (before.head, after.head)):
        mine, theirs = mine.state_dict(), theirs.state_dict()
        assert mine.keys() == theirs.keys() and all(
            torch.equal(mine[key], theirs[key]) for key in mine
        )
    family = "electra" if imported.class_name.startswith("Electra") else "bert"
    export(back, tmp_path / "again", family=family)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "hf" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def theirs(tmp_path, class_name: str, **options):
    """A random model of transformers with a small vocabulary, saved as they do."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklm"),
    ]
    family = "Bert" if class_name.startswith("Bert") else "Electra"
    config = getattr(transformers, f"{family}Config")(
        **{
            "vocab_size": len(words),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "max_position_embeddings": 20,
            **({"embedding_size": 8} if family == "Electra" else {}),
            **options,
        }
    )
    torch.manual_seed(2)
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return model, tmp_path / "theirs"


@pytest.mark.parametrize(
    "class_name, left",
    [
        ("BertForMaskedLM", 0),
        ("BertForPreTraining", 2),
        ("BertModel", 0),
        ("ElectraForMaskedLM", 0),
        ("ElectraForPreTraining", 0),
        ("ElectraModel", 0),
    ],
)
def test_a_model_of_theirs_gives_the_same_features_here(tmp_path, class_name, left):
    model, folder = theirs(tmp_path, class_name)
    imported = import_folder(folder, tmp_path / "run")
    assert len(imported.left_behind) == left
    loaded = fwk.load(tmp_path / "run")
    tokens, mask, pairs = inputs(model.config.vocab_size)
    base = model if class_name.endswith("Model") else getattr(model, model.base_model_prefix)
    with torch.no_grad():
        mine = loaded.model({"tokens": tokens, "segments": pairs}, mask).features
        their_inputs = {"input_ids": tokens, "attention_mask": mask.long(), "token_type_ids": pairs}
        torch.testing.assert_close(
            mine[mask], base(**their_inputs).last_hidden_state[mask], atol=1e-5, rtol=0
        )
        part = exporting.find_part(loaded, imported.by)
        if part.head is not None:
            logits = part.head(mine)
            logits = logits.squeeze(-1) if logits.shape[-1] == 1 else logits
            out = model(**their_inputs)
            torch.testing.assert_close(
                logits[mask],
                (out.logits if "logits" in out else out.prediction_logits)[mask],
                atol=1e-5,
                rtol=0,
            )


def test_old_names_shards_and_a_folder_without_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    model, folder = theirs(tmp_path, "BertForMaskedLM")
    weights = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in weights.items()
    }
    halves = [dict(list(old.items())[::2]), dict(list(old.items())[1::2])]
    (folder / "model.safetensors").unlink()
    for number, half in enumerate(halves):
        save_file(half, folder / f"part-{number}.safetensors")
    where = {
        name: f"part-{number}.safetensors" for number, half in enumerate(halves) for name in half
    }
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": where}), encoding="utf-8"
    )
    import_folder(folder, tmp_path / "run")
    assert torch.equal(
        fwk.load(tmp_path / "run").model.embeddings.norm.weight,
        model.bert.embeddings.LayerNorm.weight,
    )
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(DataError, match="is a pickle, which is not read"):
        import_folder(folder, tmp_path / "other")


@pytest.mark.parametrize(
    "options, said",
    [({"hidden_act": "relu"}, "hidden_act: 'relu'"), ({"is_decoder": True}, "is_decoder: True")],
)
def test_what_bert_cannot_do_is_refused(tmp_path, options, said):
    _, folder = theirs(tmp_path, "BertForMaskedLM", **options)
    with pytest.raises(ConfigError, match=said):
        import_folder(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_broken_folders_are_one_sentence(tmp_path, capsys):
    _, folder = theirs(tmp_path, "BertForMaskedLM")
    run = tmp_path / "run"
    capsys.readouterr()

    def refused(said: str) -> None:
        assert import_command.main([str(folder), str(run)]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1 and not run.exists()

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    for changes, said in (
        (
            {"architectures": ["RobertaModel"]},
            "the architecture is 'RobertaModel'; expected one of",
        ),
        ({"num_hidden_layers": 3}, "the weights lack"),
        ({"intermediate_size": 41}, "but its configuration says"),
        ({"num_hidden_layers": 1}, "a BertForMaskedLM does not have the weights"),
        ({"vocab_size": 99}, "the tokenizer has 44 tokens, but vocab_size in config.json is 99"),
        ({"vocab_size": None}, "vocab_size in config.json is None"),
        ({"architectures": 5}, "the architecture is 5"),
        ({"architectures": "BertModelx"}, "the architecture is 'BertModelx'"),
        ({"hidden_size": "x"}, "is damaged: hidden_size"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        refused(said)
    (folder / "config.json").write_text("{", encoding="utf-8")
    refused("is not JSON")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights[:1000])
    refused("model.safetensors cannot be read")
    (folder / "model.safetensors").unlink()
    refused("model.safetensors does not exist")
    assert (
        import_command.main([str(tmp_path / "nowhere"), str(run)]) == 2
        and "is not a folder" in capsys.readouterr().err
    )


def test_sizes_that_the_weights_do_not_have_take_no_memory(tmp_path, monkeypatch):
    _, folder = theirs(tmp_path, "BertForMaskedLM")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = {**config, "type_vocab_size": 1_000_000}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    monkeypatch.setattr(fitting, "BYTES_BESIDES", 1 << 20)
    built = []
    monkeypatch.setattr(
        fitting, "build_module", lambda *given: built.append(build_module(*given)) or built[-1]
    )
    with pytest.raises(DataError, match=r"segment.weight is \[2, \d+\], but .* \[1000000, \d+\]"):
        import_folder(folder, tmp_path / "run")
    (module,) = built
    assert module.networks["main"].embeddings.segment.weight.is_meta
    assert not (tmp_path / "run").exists()


def test_commands_say_what_they_did_and_spare_what_is_there(runs, tmp_path, capsys):
    there = tmp_path / "hf"
    assert export_command.main([str(runs("bert")), str(there)]) == 0
    out = capsys.readouterr()
    assert "BertForMaskedLM" in out.out and "largest difference" in out.out and not out.err
    assert (
        export_command.main([str(runs("bert")), str(there)]) == 2
        and "--overwrite" in capsys.readouterr().err
    )
    assert export_command.main([str(runs("bert")), str(there), "--overwrite", "--quiet"]) == 0
    assert export_command.main([str(runs("bert")), str(tmp_path / "x"), "--by", "masked"]) == 2
    assert (
        "'masked' has no head that transformers knows. Did you mean 'masked_lm'? Available: encoder, masked_lm"
        in capsys.readouterr().err
    )
    assert (
        import_command.main([str(there), str(tmp_path / "run")]) == 0
        and "masked_lm" in capsys.readouterr().out
    )
    assert (
        import_command.main([str(there), str(tmp_path / "run")]) == 2
        and "--overwrite" in capsys.readouterr().err
    )
    card = (there / "README.md").read_text(encoding="utf-8")
    for said in (
        "masked_lm",
        "Data fingerprint",
        "valid/loss",
        "positions: learned",
        "from transformers import",
    ):
        assert said in card


def test_only_what_the_same_command_made_is_replaced(runs, tmp_path, capsys, monkeypatch):
    run = runs("bert")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "hf"
    assert export_command.main([str(run), str(source), "--quiet"]) == 0
    foreign, lone = "is a folder of something else", "is not a folder"
    for target, out, back in (
        (run, "must stay", foreign),
        (run.parent, "must stay", foreign),
        (source, None, "must stay"),
        (other, foreign, foreign),
        (tmp_path / "link", lone, lone),
        (tmp_path / "file", lone, lone),
        (tmp_path, "must stay", "must stay"),
        (tmp_path / "no" / "where", lone, lone),
    ):
        for command, given, said in ((export_command, run, out), (import_command, source, back)):
            if said is None:  # an earlier export may be replaced
                continue
            assert command.main([str(given), str(target), "--overwrite"]) == 2
            error = capsys.readouterr().err
            assert said in error and len(error.splitlines()) == 1
    assert (other / "thesis.txt").read_text() == "years of work" and fwk.load(run).update == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    other.joinpath("thesis.txt").unlink()
    assert (
        export_command.main([str(run), str(other), "--overwrite", "--quiet"]) == 0
    )  # an empty folder is nobody's
    assert (other / "model.safetensors").stat().st_mode & 0o777 == (
        tmp_path / "file"
    ).stat().st_mode & 0o777


def test_an_epsilon_that_the_head_does_not_share_is_refused_on_the_way_in_too(tmp_path):
    _, folder = theirs(tmp_path, "BertForMaskedLM", layer_norm_eps=1e-5)
    with pytest.raises(
        ConfigError,
        match="model.norm_eps: transformers uses 1e-05 .layer_norm_eps. in the masked-LM head too",
    ):
        import_folder(folder, tmp_path / "run")
    (tmp_path / "other").mkdir()
    _, folder = theirs(tmp_path / "other", "ElectraForPreTraining", layer_norm_eps=1e-5)
    assert import_folder(folder, tmp_path / "run").class_name == "ElectraForPreTraining"


def test_the_tokenizer_is_named_as_version_4_knows_it(runs, tmp_path):
    export(fwk.load(runs("bert")), tmp_path / "hf")
    said = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast" and "backend" not in said


def test_a_vocabulary_is_prepared_as_its_folder_says(tmp_path):
    _, folder = theirs(tmp_path, "BertForMaskedLM")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"do_lower_case": True, "strip_accents": False}), encoding="utf-8")
    import_folder(folder, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "tokenizer" / "tokenizer.json").read_text())
    assert content["normalizer"]["lowercase"] and not content["normalizer"]["strip_accents"]
    path.write_text(json.dumps({"do_basic_tokenize": False}), encoding="utf-8")
    with pytest.raises(DataError, match="do_basic_tokenize is false, so vocab.txt alone"):
        import_folder(folder, tmp_path / "other")


def test_an_import_is_not_resumed(runs, tmp_path):
    export(fwk.load(runs("bert")), tmp_path / "hf")
    import_folder(tmp_path / "hf", tmp_path / "run")
    from fwk.errors import CheckpointError

    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match=f"holds weights only.* give model.from={run} and"):
        fwk.train(str(run / "config.yaml"), run=str(run), hooks={})


# -- encoders without a head -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_name", ["BertModel", "ElectraModel"])
def test_the_new_head_of_an_encoder_alone_is_known_as_untrained_and_refused(
    tmp_path, class_name, capsys
):
    _, folder = theirs(tmp_path, class_name)
    run = tmp_path / "run"
    assert import_command.main([str(folder), str(run)]) == 0
    assert "'masked_lm' has a new head, which cannot score" in capsys.readouterr().out
    loaded = fwk.load(run)
    assert loaded.untrained == ("masked_lm",)
    loaded.save(tmp_path / "copy")
    assert fwk.load(tmp_path / "copy").untrained == ("masked_lm",)

    with pytest.raises(ConfigError, match="--by: 'masked_lm' of .* was never trained.*noise"):
        Scorer(loaded)
    with pytest.raises(ConfigError, match="--by: 'masked_lm' .* export the encoder"):
        export(loaded, tmp_path / "head", by="masked_lm")
    assert not (tmp_path / "head").exists()
    (tmp_path / "lines.txt").write_text("a b\n")
    assert score_command.main([str(run), "--text", str(tmp_path / "lines.txt")]) == 2
    assert "was never trained" in capsys.readouterr().err
    assert export(loaded, tmp_path / "encoder").class_name == class_name
    assert load_pretrained(str(run)).model.width == 16  # training may start from it


def test_the_head_of_a_model_with_one_is_trained_and_an_older_import_without_is_not(tmp_path):
    _, folder = theirs(tmp_path, "BertForMaskedLM")
    import_folder(folder, tmp_path / "run")
    loaded = fwk.load(tmp_path / "run")
    assert loaded.untrained == () and Scorer(loaded).by == "masked_lm"
    weights = model_tensors(loaded.module)
    assert untrained_parts(loaded.module, {}, {"imported": "BertModel"}) == ("masked_lm",)
    other = {name: value + 1 for name, value in weights.items()}
    assert untrained_parts(loaded.module, other, {"imported": "BertForMaskedLM"}) == ()
