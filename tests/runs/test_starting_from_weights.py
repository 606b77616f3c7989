"""`model.from`: weights, options and tokenizer of runs, copies, imports and folders of transformers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import fwk
from fwk.cli import train as train_command
from fwk.components import trust
from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.components.trust import trusting
from fwk.components.user_dirs import PREFIX
from fwk.config.identity import shared_by_ranks as identity_keys
from fwk.config.resolve import resolve
from fwk.engine.ranks.world import World
from fwk.engine.saving.state import model_tensors
from fwk.errors import CheckpointError, ConfigError, DataError, UntrustedCode
from fwk.hf.exporting import export
from fwk.hf.importing import import_folder
from fwk.runs.building import build_run
from fwk.runs.folder import default_folder
from fwk.runs.origin import RECORD, find_origin
from fwk.runs.starting import start_from
from fwk.testing.running import stopped_at

SIZES = {"layers": 1, "width": 16, "heads": 2, "positions": "learned", "dropout": 0.3}
QUIET = {"terminal": None, "tensorboard": None, "summary": None}
SENTENCES = [
    f"the {a} {b} sees a {c} ." for a in ("old", "red") for b in ("dog", "cat") for c in "xyz"
]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(SENTENCES * 4), encoding="utf-8")
    return path


def settings(text: Path, **changes) -> dict:
    return {
        "task": {"name": "mlm", "data": str(text), "length": 16, "vocabulary": 60},
        "train": {"updates": 2, "batch": 4, "device": "cpu", "save_every": 1},
        "hooks": QUIET,
        **changes,
    }


@pytest.fixture(scope="module")
def source(text, tmp_path_factory) -> Path:
    """A run with a masked-LM head."""
    folder = tmp_path_factory.mktemp("source") / "run"
    model = {"name": "bert", **SIZES}
    return fwk.train(settings(text, model=model, criterion="masked_lm"), run=str(folder)).folder


@pytest.fixture(scope="module")
def electra(text, tmp_path_factory) -> Path:
    """A run with a discriminator and a generator, which share no weights."""
    folder = tmp_path_factory.mktemp("source") / "electra"
    views = {"corrupted": {"network": {"name": "scaled", "width": 0.5, "share": "none"}}}
    model = {"name": "bert", **SIZES}
    config = settings(text, model=model, criterion="replaced_token_detection", views=views)
    return fwk.train(config, run=str(folder)).folder


def built(text: Path, folder: Path, *overrides: str, **flags):
    """The module of a run at its start, and the lines of the report."""
    config = resolve(layers=[("test", settings(text))], overrides=overrides, flags=flags).config
    origin = find_origin(config)
    run = build_run(origin.config, folder, load_plugins(()), World(), sources=dict(origin.sources))
    return run.module, start_from(run.module, origin.sources, origin.config, 16), origin


def weights_of(place: Path) -> dict[str, torch.Tensor]:
    return model_tensors(fwk.load(place).module)


def require_equal(ours, theirs, prefix: str) -> None:
    names = [name for name in ours if name.startswith(prefix)]
    assert names
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


def bert_of_theirs(folder: Path, class_name: str = "BertForMaskedLM", **options) -> Path:
    """A random model of transformers whose vocabulary has the words of the text."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({*" ".join(SENTENCES).split()})]
    family = "Bert" if class_name.startswith("Bert") else "Electra"
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        **options,
    )
    torch.manual_seed(5)
    getattr(transformers, class_name)(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


# -- sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run", "checkpoint", "copy", "import", "folder"])
@pytest.mark.mostly_slow("=run", "=copy", "=folder")
def test_every_kind_of_source_gives_weights_options_and_tokenizer(source, text, tmp_path, kind):
    place = source
    if kind == "checkpoint":
        place = source / "checkpoints" / "update-000000002"
    if kind == "copy":
        fwk.load(source).save(place := tmp_path / "copy")
    if kind in ("import", "folder"):
        place = bert_of_theirs(tmp_path / "theirs")
    if kind != "folder":
        known = place
    if kind in ("import", "folder"):
        import_folder(place, known := tmp_path / "imported")
        place = known if kind == "import" else place

    module, report, origin = built(text, tmp_path / "new", f"model.from={place}")
    require_equal(model_tensors(module), weights_of(known), "")
    assert not any(line.startswith(("  new", "  left over")) for line in report), report
    loaded = fwk.load(known)
    assert {**origin.config.model.values, "length": None} == {
        **loaded.config.model.values,
        "length": None,
    }
    assert origin.sources["model"].tokenizer.fingerprint == loaded.tokenizer.fingerprint
    assert origin.config.provenance["model.width"] == f"model.from={place}"


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: None, "there is no run, checkpoint or folder at"),
        (lambda folder: folder.mkdir(), "is neither a run, nor a checkpoint, nor a folder of"),
        (
            lambda folder: bert_of_theirs(folder) and (folder / "model.safetensors").unlink(),
            "model.safetensors does not exist",
        ),
    ],
)
def test_what_is_no_source_is_an_error_at_the_key(text, tmp_path, make, said):
    make(tmp_path / "source")
    with pytest.raises(ConfigError, match=rf"^model.from: .*{said}"):
        built(text, tmp_path / "new", f"model.from={tmp_path / 'source'}")


CODE = """
from dataclasses import dataclass

from fwk import register
from fwk.models.bert import Bert


@register("model", "test_mine")
class Mine(Bert):
    '''A Bert of a user.'''

    @dataclass(frozen=True, kw_only=True)
    class Config(Bert.Config):
        '''Its options.'''
"""


def test_a_source_of_user_code_needs_the_users_word_and_the_run_names_the_code(
    text, tmp_path, monkeypatch
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(CODE, encoding="utf-8")
    config = settings(text, model={"name": "test_mine", **SIZES})
    config["train"] = {**config["train"], "updates": 1}
    place = fwk.train(
        config, run=str(tmp_path / "run"), user_dirs=[str(tmp_path / "code")], trust=True
    ).folder
    # another machine, where nothing was imported or allowed yet
    registry.remove("model", "test_mine")
    monkeypatch.setattr(trust, "private_folder", lambda name: tmp_path / "records" / name)
    with pytest.raises(UntrustedCode, match="user_dirs names the code in"):
        built(text, tmp_path / "new", f"model.from={place}")
    for module in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[module]
    with trusting(True):
        _, _, origin = built(text, tmp_path / "new", f"model.from={place}")
    assert origin.config.user_dirs == (str(tmp_path / "code"),)


# -- what fits -------------------------------------------------------------------------------------------------------


def test_a_head_goes_to_a_criterion_of_its_role_and_an_untrained_one_is_new(source, text, tmp_path):
    flags = {"criterion": ["semantic_augment"]}
    module, report, _ = built(text, tmp_path / "new", f"model.from={source}", **flags)
    head = {n: v for n, v in weights_of(source).items() if n.startswith("criteria.masked_lm.")}
    ours = model_tensors(module)
    for name, value in head.items():
        assert ours[name.replace("masked_lm", "semantic_augment")].equal(value)

    alone = bert_of_theirs(tmp_path / "alone", "BertModel")
    import_folder(alone, tmp_path / "imported")
    for place in (alone, tmp_path / "imported"):
        _, report, origin = built(text, tmp_path / "new", f"model.from={place}")
        assert any(line.startswith("  new        criteria.masked_lm.head") for line in report)
        assert origin.config.model.values["pooler"] is True


def test_a_criterion_does_not_take_the_head_of_a_generator(text, tmp_path):
    network = {
        "name": "scaled",
        "width": 1.0,
        "layers": 1.0,
    }  # its head has the shapes of the main one
    electra = {
        "model": {"name": "bert", **SIZES},
        "criterion": "replaced_token_detection",
        "views": {"corrupted": {"noiser": "masked_lm", "of": "masked", "network": network}},
        "run": str(tmp_path / "electra"),
    }
    fwk.train(settings(text, **electra))
    _, report, _ = built(text, tmp_path / "new", f"model.from={tmp_path / 'electra'}")
    assert any(line.startswith("  new        criteria.masked_lm.head") for line in report)
    assert any(line.startswith("  loaded     networks.main") for line in report)


def test_what_a_run_lacks_and_what_it_does_not_read_is_listed(source, text, tmp_path):
    overrides = [f"model.from={source}", "model.layers=2", "model.buckets=4"]
    _, report, _ = built(text, tmp_path / "new", *overrides)
    assert "  new        networks.main.bucket_bias: 8 parameters" in report
    assert any(line.startswith("  new        networks.main.layers") for line in report)

    _, report, _ = built(text, tmp_path / "new", f"model.from={source}", "model.segments=0")
    assert "  left over  networks.main.embeddings: 32 parameters" in report


def test_stated_options_win_unless_they_change_shapes(source, text, tmp_path):
    module, _, _ = built(text, tmp_path / "new", f"model.from={source}", "model.dropout=0")
    assert module.networks["main"].config.dropout == 0
    with pytest.raises(ConfigError) as error:
        built(text, tmp_path / "new", f"model.from={source}", "model.inner=24")
    assert str(error.value).startswith(
        "model.from: networks.main.layers.0.inner.weight is [64, 16]"
    )
    assert "[24, 16] in this run; the config states model.inner=24" in str(error.value)


def test_a_head_of_another_shape_is_new_as_a_whole(source, text, tmp_path):
    """Of a criterion with the same label, such as a classification with other classes."""
    layers = [("test", settings(text))]
    origin = find_origin(resolve(layers=layers, overrides=[f"model.from={source}"]).config)
    part = origin.sources["model"].parts["masked_lm"]
    part.tensors["head.transform.weight"] = torch.zeros(3, 16)  # type: ignore[index]
    module = build_run(origin.config, tmp_path, load_plugins(()), World()).module
    fresh = {n: v.clone() for n, v in model_tensors(module).items() if n.startswith("criteria.")}
    report = start_from(module, origin.sources, origin.config, 16)
    assert any("head.transform.weight is [3, 16] in" in line for line in report)
    require_equal(fresh, model_tensors(module), "criteria.")


def test_a_task_longer_than_the_learned_positions_is_refused(source, text, tmp_path):
    with pytest.raises(
        ConfigError, match="task.length: is 32, .*for 16 tokens; set task.length=16"
    ):
        fwk.train(
            settings(text),
            run=str(tmp_path / "x"),
            **{"model.from": str(source), "task.length": 32},
        )
    assert not (tmp_path / "x").exists()


def test_an_untied_head_is_not_loaded_into_a_tied_one(text, tmp_path):
    folder = bert_of_theirs(tmp_path / "theirs", tie_word_embeddings=False)
    with pytest.raises(ConfigError, match="head.output.weight is tied to networks.main.embeddings"):
        built(text, tmp_path / "new", f"model.from={folder}")
    module, _, _ = built(
        text, tmp_path / "new", f"model.from={folder}", "criterion.tied_output=false"
    )
    head = model_tensors(module)["criteria.masked_lm.head.output.weight"]
    assert not head.equal(model_tensors(module)["networks.main.embeddings.token.weight"])


def test_networks_start_from_networks_of_their_name_or_the_main_one(
    source, electra, text, tmp_path
):
    flags = {"criterion": ["replaced_token_detection"]}
    generator = "views.corrupted.network.from"
    overrides = [f"model.from={electra}", f"{generator}={electra}"]
    module, report, _ = built(text, tmp_path / "new", *overrides, **flags)
    require_equal(model_tensors(module), weights_of(electra), "")
    assert not any("left over" in line for line in report)

    overrides = [f"model.from={electra}", f"{generator}={source}"]
    config = resolve(layers=[("test", settings(text))], overrides=overrides, flags=flags).config
    complete = find_origin(config).config
    assert complete.views["corrupted"]["network"]["name"] == "bert"
    module, _, _ = built(text, tmp_path / "new", *overrides, **flags)
    ours, theirs = model_tensors(module), weights_of(source)
    for name, value in theirs.items():
        if name.startswith("networks.main."):
            assert ours[name.replace("main", "corrupted_network", 1)].equal(value)
        if name.startswith("criteria.masked_lm."):  # the generator's head has the same role
            assert ours[name.replace("criteria.masked_lm", "learned.corrupted")].equal(value)


# -- tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", ["kind", "path", "store"])
def test_another_tokenizer_is_refused_with_the_reason(source, text, tmp_path, stated):
    folder = bert_of_theirs(tmp_path / "theirs")
    options: dict[str, object] = {"model.from": str(folder)}
    if stated == "kind":
        options["task.tokenizer"] = "unigram"
    if stated == "path":
        options["task.tokenizer"] = str(source / "tokenizer")
    if stated == "store":
        from fwk.cli import preprocess

        store = tmp_path / "store"
        arguments = [str(text), "--output", str(store), "--vocabulary", "60", "--quiet"]
        assert preprocess.main(arguments) == 0
        options["task.data"] = str(store)
    with pytest.raises((ConfigError, DataError), match="another tokenizer|vocabulary"):
        fwk.train(settings(text), run=str(tmp_path / "x"), **options)
    assert not (tmp_path / "x").exists()


def test_the_same_tokenizer_may_be_stated(source, text, tmp_path):
    tokenizer = f"task.tokenizer={source / 'tokenizer'}"
    built(text, tmp_path / "new", f"model.from={source}", tokenizer)
    built(text, tmp_path / "new", f"model.from={source}", "task.tokenizer=unigram")


# -- the life of the run ---------------------------------------------------------------------------------------------


def test_a_run_resumes_to_the_bit_where_its_source_was_deleted(source, text, tmp_path):
    shutil.copytree(source, place := tmp_path / "source", symlinks=True)
    config = settings(text, model={"from": str(place)}, criterion="semantic_augment")
    config["train"] = {**config["train"], "updates": 4}
    whole = fwk.train(config, run=str(tmp_path / "whole")).folder
    with stopped_at(2):
        fwk.train(config, run=str(tmp_path / "stopped"))
    shutil.rmtree(place)

    resumed = fwk.train(config, run=str(tmp_path / "stopped")).folder
    require_equal(weights_of(resumed), weights_of(whole), "")
    assert str(tmp_path / "stopped" / "tokenizer") in (resumed / "config.yaml").read_text()
    fwk.load(resumed)
    again = str(resumed / "config.yaml")
    assert fwk.train(again).update == 4

    shutil.copytree(source, other := tmp_path / "other", symlinks=True)
    with pytest.raises(CheckpointError, match=f"model.from was {place}, is now {other}"):
        fwk.train({**config, "model": {"from": str(other)}}, run=str(resumed))


def test_a_run_without_a_checkpoint_says_what_it_lacks(source, text, tmp_path):
    shutil.copytree(source, place := tmp_path / "source", symlinks=True)
    config = settings(text, model={"from": str(place)})
    run = fwk.train(config, run=str(tmp_path / "run")).folder
    shutil.rmtree(run / "checkpoints")
    record = json.loads((run / RECORD).read_text())
    (run / RECORD).write_text(json.dumps({"model": {**record["model"], "fingerprint": "0" * 64}}))
    with pytest.raises(CheckpointError, match="started from other weights .model.from was .* with"):
        fwk.train(config, run=str(run))
    (run / RECORD).write_text(json.dumps(record))
    shutil.rmtree(place)
    with pytest.raises(
        CheckpointError, match="before its first checkpoint, and the weights .*gone"
    ):
        fwk.train(config, run=str(run))


def test_the_default_folder_does_not_depend_on_the_source(source, text):
    config = resolve(
        layers=[("test", settings(text))], overrides=[f"model.from={source}", "model.heads=4"]
    ).config
    gone = resolve(
        layers=[("test", settings(text))], overrides=["model.from=/gone", "model.heads=4"]
    ).config
    assert default_folder(config) != default_folder(gone)
    assert str(default_folder(config)).startswith("runs/mlm-masked_lm-")


def test_a_run_of_before_the_pooler_is_found_by_the_same_command(text):
    layers = [("test", settings(text))]
    later = resolve(layers=layers, overrides=["model.pooler=true"]).config
    assert "pooler" not in str(identity_keys(resolve(layers=layers).config))
    assert "model.pooler" in identity_keys(later)


def test_the_config_of_a_copy_starts_from_its_weights_wherever_it_lies(
    source, text, tmp_path, monkeypatch
):
    fwk.load(source).save(tmp_path / "first")
    shutil.move(tmp_path / "first", copy := tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="holds weights only"):
        fwk.train(str(copy / "config.yaml"), run=str(copy), hooks=QUIET)
    config = resolve([copy / "config.yaml"]).config
    assert config.run is None and config.model.weights_from == str(copy)
    assert config.task.values["tokenizer"] == str(copy / "tokenizer")
    origin = find_origin(config)
    module = build_run(
        origin.config, tmp_path / "new", load_plugins(()), World(), sources=origin.sources
    ).module
    require_equal(model_tensors(module), weights_of(source), "")


def test_the_command_shows_what_the_run_becomes(source, text, tmp_path, capsys):
    task = [f"task.data={text}", "task.length=16"]
    assert train_command.main([*task, f"model.from={source}", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "width: 16 " in shown and f"# model.from={source}" in shown
    assert train_command.main(["--model", "bert", "--help"]) == 0
    assert "model.from  (str | null; default null)" in capsys.readouterr().out
    assert train_command.main([*task, f"model.from={source}", "model.width=8"]) == 2
    assert "the config states model.width=8 (there 16)" in capsys.readouterr().err


# -- continued pretraining -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_imported_bert_is_trained_on_and_exported_again(text, tmp_path):
    import_folder(bert_of_theirs(tmp_path / "theirs"), imported := tmp_path / "imported")
    run = fwk.train(
        [str(imported / "config.yaml"), settings(text)],
        criterion="semantic_augment",
        run=str(tmp_path / "run"),
    ).folder
    exported = export(fwk.load(run), tmp_path / "out")
    assert exported.class_name == "BertForMaskedLM" and max(exported.differences.values()) < 1e-5


@pytest.mark.slow
def test_an_imported_electra_is_trained_on_and_exported_again(text, tmp_path):
    disc = bert_of_theirs(tmp_path / "disc", "ElectraForPreTraining", embedding_size=8)
    gen = bert_of_theirs(tmp_path / "gen", "ElectraForMaskedLM", embedding_size=8)
    options = {"model.from": str(disc), "views.corrupted.network.from": str(gen)}
    run = fwk.train(
        settings(text), criterion="replaced_token_detection", run=str(tmp_path / "run"), **options
    ).folder
    for by, name in ((None, "ElectraForPreTraining"), ("corrupted", "ElectraForMaskedLM")):
        exported = export(fwk.load(run), tmp_path / name, by)
        assert exported.class_name == name and max(exported.differences.values()) < 1e-5


@pytest.mark.slow
def test_a_pooler_survives_import_training_and_export(text, tmp_path):
    folder = bert_of_theirs(tmp_path / "theirs", "BertModel")
    run = fwk.train(settings(text), run=str(tmp_path / "run"), **{"model.from": str(folder)}).folder
    exported = export(fwk.load(run), tmp_path / "out", "encoder")
    assert exported.class_name == "BertModel" and "pooled, float32" in exported.differences


def test_new_layers_are_drawn_after_weights_were_loaded(text, source, tmp_path):
    """The rate is 0, so the weights at the end are those of the start; a resumed run keeps them."""
    still = {"name": "adamw", "lr": 0.0}
    hooks = {**QUIET, "reinitialise": {"layers": 1}}
    config = settings(text, optimizer=still, hooks=hooks, criterion="masked_lm")
    model = {"name": "bert", "from": str(source)}
    with stopped_at(1):
        fwk.train({**config, "model": model}, run=str(tmp_path / "run"))
    fwk.train({**config, "model": model}, run=str(tmp_path / "run"))
    old, new = (model_tensors(fwk.load(run).module) for run in (source, tmp_path / "run"))
    for name, value in new.items():
        if ".layers.0." in name and name.endswith("weight") and "norm" not in name:
            assert not torch.equal(value, old[name]) and value.std() < 0.03
        elif ".layers." not in name:
            assert torch.equal(value, old[name]), name
