"""Heads of fine-tuned models in the classes of `transformers` for tasks: the same logits, labels and options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fwk
from fwk.cli import evaluate as evaluate_command
from fwk.cli import import_checkpoint as import_command
from fwk.config.resolve import resolve
from fwk.errors import ConfigError, DataError
from fwk.hf.exporting import export
from fwk.hf.importing import import_folder
from fwk.runs.origin import find_origin

transformers = pytest.importorskip("transformers")

from support.transformers_folder import write_model  # noqa: E402

WORDS = ["old", "small", "red", "dog", "cat", "bird", "sees", "book", "tree", "house"]
SIZES = {"layers": 1, "width": 16, "heads": 2, "positions": "learned", "initialisation": "fan_in"}
KINDS = {"class": "classification", "classes": "multilabel", "number": "regression"}
KINDS |= {"choice": "multiple_choice", "span": "answer_span"}
TEXTS = ["the old dog sees a tree .", "a red bird", "the small house"]
POOLER = {"pooling": "pooler"}


def rows(kind: str) -> list[dict]:
    made = []
    for n in range(16):
        first = f"{WORDS[n % 10]} {WORDS[3 * n % 10]}"
        second = f"{WORDS[(7 * n + 1) % 10]} {WORDS[2 * n % 10]} {WORDS[n % 3]}"
        label = {
            "class": ["no", "maybe", "yes"][n % 3],
            "classes": ["a", "b"] if n % 2 else ["c"],
            "number": float(n % 6),
            "choice": n % 2,
            "span": [0, len(second.split()[0])],
        }[kind]
        made.append({"first": first, "second": second, "other": first, "label": label})
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function: kind of label, options of criterion and model -> a loaded run with weights of some size."""
    folder = tmp_path_factory.mktemp("runs")

    def train(kind: str, options: dict, model: dict):
        data = folder / f"{kind}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(kind)), encoding="utf-8")
        task = {"name": "examples", "data": str(data), "label": "label", "kind": kind, "length": 20}
        task |= {"texts": ["first", "second"], "tokenizer": "wordpiece", "vocabulary": 80}
        if kind == "choice":
            task |= {"texts": ["context=first"], "choices": ["second", "other"]}
        config = {
            "task": task,
            "model": {"name": "bert", **SIZES, **model},
            "criterion": {KINDS[kind]: options},
            "train": {"updates": 1, "batch": 4, "device": "cpu", "save_every": 0},
            "hooks": {"terminal": None, "tensorboard": None, "summary": None},
        }
        name = f"run{len([*folder.iterdir()])}"
        loaded = fwk.load(fwk.train(config, run=str(folder / name)).folder)
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in loaded.module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return loaded

    return train


def pairs() -> list[tuple[str, str]]:
    return [(row["first"], row["second"]) for row in rows("class")]


def their_logits(folder: Path, model) -> torch.Tensor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts, others = zip(*pairs())
    with torch.no_grad():
        return model.eval()(
            **tokenizer(list(texts), list(others), padding=True, return_tensors="pt")
        ).logits


# kind of label, options of the criterion, options of the model, class of transformers
SEQUENCES = [
    ("class", {"hidden": "gelu"}, {}, "ElectraForSequenceClassification"),
    ("class", {}, {}, "ElectraForSequenceClassification"),
    ("class", POOLER, {"pooler": True}, "BertForSequenceClassification"),
    ("class", {"hidden": "tanh"}, {"pooler": True}, "BertForSequenceClassification"),
    ("class", {}, {"embedding": 8, "segments": 0}, "ElectraForSequenceClassification"),
    ("classes", {"hidden": "gelu"}, {}, "ElectraForSequenceClassification"),
    ("classes", POOLER, {"pooler": True}, "BertForSequenceClassification"),
    ("number", {"hidden": "tanh", "low": 2.0, "high": 7.0}, {}, "BertForSequenceClassification"),
    ("number", {}, {}, "ElectraForSequenceClassification"),
]


@pytest.mark.parametrize("kind, options, model, class_name", SEQUENCES)
@pytest.mark.mostly_slow("class-options1", "number-options7", "classes-options6")
def test_what_transformers_says_of_texts_is_what_fwk_predicts(
    trained, tmp_path, kind, options, model, class_name
):
    loaded = trained(kind, {**options, "dropout": 0.25}, model)
    exported = export(loaded, tmp_path / "hf")
    assert (exported.class_name, exported.by) == (class_name, KINDS[kind])

    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    assert type(theirs).__name__ == class_name and theirs.config.classifier_dropout == 0.25
    logits = their_logits(tmp_path / "hf", theirs)
    names = theirs.config.id2label
    assert theirs.config.label2id == {name: number for number, name in names.items()}
    ours = [prediction["label"] for prediction in loaded.predict(pairs())]
    if kind == "number":
        assert theirs.config.problem_type == "regression" and logits.shape[1] == 1
        expected = torch.tensor([prediction["prediction"] for prediction in ours])
        torch.testing.assert_close(logits[:, 0], expected, atol=1e-5, rtol=1e-5)
        return
    assert tuple(names[number] for number in range(3)) == loaded.task.labels()["label"]
    shares, problem = logits.softmax(-1), "single_label_classification"
    if kind == "classes":
        shares, problem = logits.sigmoid(), "multi_label_classification"
    assert theirs.config.problem_type == problem
    expected = torch.tensor([[o["probabilities"][names[n]] for n in range(3)] for o in ours])
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=0)


CHOICES = [
    ({"hidden": "gelu"}, {}, "ElectraForMultipleChoice"),
    ({}, {}, "ElectraForMultipleChoice"),
    ({"hidden": "tanh"}, {"embedding": 8}, "ElectraForMultipleChoice"),
    (POOLER, {"pooler": True, "embedding": 8}, "ElectraForMultipleChoice"),
    (POOLER, {"pooler": True}, "BertForMultipleChoice"),
]


@pytest.mark.parametrize("options, model, class_name", CHOICES)
@pytest.mark.mostly_slow("options4")
def test_choices_have_the_same_probabilities(trained, tmp_path, options, model, class_name):
    loaded = trained("choice", options, model)
    exported = export(loaded, tmp_path / "hf")
    assert exported.class_name == class_name and exported.differences["logits, float32"] < 1e-5

    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for row in rows("choice")[:6]:
        contexts, choices = [row["first"]] * 2, [row["second"], row["other"]]
        inputs = tokenizer(contexts, choices, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = theirs(**{name: value[None] for name, value in inputs.items()}).logits[0]
        (ours,) = loaded.predict([{"context": row["first"], "choices": choices}])
        expected = torch.tensor(ours["label"]["probabilities"])
        torch.testing.assert_close(logits.softmax(-1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", [{}, {"embedding": 8}, {"pooler": True}])
@pytest.mark.mostly_slow("=model1")
def test_answers_have_the_same_logits(trained, tmp_path, model):
    loaded = trained("span", {}, model)
    exported = export(loaded, tmp_path / "hf")
    family = "Electra" if "embedding" in model else "Bert"
    assert exported.class_name == f"{family}ForQuestionAnswering"

    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts, others = zip(*pairs())
    inputs = tokenizer(list(texts), list(others), padding=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    with torch.no_grad():
        output = theirs(**inputs)
        features = loaded.model({"tokens": ids, "segments": inputs["token_type_ids"]}, mask)
        logits = loaded.module.criteria["answer_span"].head.output(features.features)
    for number, expected in enumerate((output.start_logits, output.end_logits)):
        torch.testing.assert_close(logits[..., number][mask], expected[mask], atol=1e-5, rtol=0)


def run_on(folder: Path, tmp_path: Path, options: dict):
    """A loaded run that trained the model 'hf' of a folder to classify."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("class")), encoding="utf-8")
    task = {"name": "examples", "data": str(data), "texts": ["first", "second"], "label": "label"}
    config = {
        "task": {**task, "length": 20},
        "model": {"name": "hf", "path": str(folder)},
        "criterion": {"classification": options},
        "train": {"updates": 1, "batch": 4, "device": "cpu", "save_every": 0},
        "hooks": {"terminal": None, "tensorboard": None, "summary": None},
    }
    return fwk.load(fwk.train(config, run=str(tmp_path / "run")).folder)


@pytest.mark.parametrize(
    "family, options, class_name",
    [
        ("bert", POOLER, "BertForSequenceClassification"),
        ("electra", {}, "ElectraForSequenceClassification"),
    ],
)
@pytest.mark.mostly_slow("bert")
def test_a_head_on_an_encoder_of_transformers_is_exported_with_it(
    tmp_path, family, options, class_name
):
    loaded = run_on(write_model(tmp_path / "theirs", family), tmp_path, options)
    exported = export(loaded, tmp_path / "hf")
    assert (exported.class_name, exported.by) == (class_name, "classification")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    shares = their_logits(tmp_path / "hf", theirs).softmax(-1)
    for row, prediction in zip(shares, loaded.predict(pairs())):
        assert numbers(prediction["label"]) == pytest.approx(row.tolist(), abs=1e-5)
    assert export(loaded, tmp_path / "encoder", by="encoder").by == "encoder"


@pytest.mark.slow
def test_a_head_on_another_architecture_is_refused_and_its_encoder_is_the_default(tmp_path):
    loaded = run_on(write_model(tmp_path / "theirs", "roberta", type_vocab_size=2), tmp_path, {})
    with pytest.raises(ConfigError, match="--by: a RobertaModel is exported without a head"):
        export(loaded, tmp_path / "hf", by="classification")
    assert export(loaded, tmp_path / "hf").class_name == "RobertaModel"


# -- what does not fit -----------------------------------------------------------------------------------------------

REFUSED = [
    ("class", {"pooling": "mean"}, {}, "auto", "pooling: mean and hidden: none; transformers has"),
    (
        "class",
        {**POOLER, "hidden": "gelu"},
        {"pooler": True},
        "auto",
        "pooling: pooler and hidden: gelu",
    ),
    (
        "class",
        {"hidden": "tanh"},
        {"embedding": 8},
        "auto",
        "the hidden layer has tanh, and Electra",
    ),
    (
        "class",
        {"hidden": "gelu"},
        {},
        "bert",
        "has gelu, and BertForSequenceClassification has tanh",
    ),
    ("class", {}, {"width": 4}, "auto", "holds at most 2 of them"),
    ("number", {"activation": "sigmoid"}, {}, "auto", "expected activation: linear"),
    ("span", {"head": "joint", "hidden": 8}, {}, "auto", "expected head: independent"),
]


@pytest.mark.parametrize("kind, options, model, family, said", REFUSED)
@pytest.mark.mostly_slow("options0")
def test_a_head_that_transformers_lacks_is_refused_with_what_would_fit(
    trained, tmp_path, kind, options, model, family, said
):
    loaded = trained(kind, options, model)
    with pytest.raises(ConfigError, match=f"^--by: .*{said}.*--by encoder"):
        export(loaded, tmp_path / "hf", family=family)
    assert not (tmp_path / "hf").exists()
    assert export(loaded, tmp_path / "hf", by="encoder").by == "encoder"


def test_the_card_names_task_labels_and_metrics(trained, tmp_path):
    export(trained("class", POOLER, {"pooler": True}), tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    for said in (
        "Task: examples. Texts: first, second. Label `label` (class): maybe, no, yes.",
        "Objective: classification",
        "the head is that of `classification`",
        "valid/accuracy",
    ):
        assert said in card


# -- back ------------------------------------------------------------------------------------------------------------

ROUND_TRIPS = [
    ("class", {}, {}),
    ("class", POOLER, {"pooler": True}),
    ("classes", {"hidden": "gelu"}, {}),
    ("number", {"hidden": "tanh", "low": 2.0, "high": 7.0}, {}),
    ("choice", {}, {}),
    ("choice", {"hidden": "tanh"}, {"embedding": 8}),
    ("span", {}, {}),
]


@pytest.mark.parametrize("kind, options, model", ROUND_TRIPS)
@pytest.mark.mostly_slow("class-options1", "choice-options4")
def test_an_imported_head_predicts_the_same_and_leaves_with_the_same_bits(
    trained, tmp_path, kind, options, model
):
    loaded = trained(kind, options, model)
    export(loaded, tmp_path / "hf")
    texts = ["context"] if kind == "choice" else ["first", "second"]
    imported = import_folder(tmp_path / "hf", tmp_path / "run", texts=texts)
    assert imported.by == KINDS[kind] and not imported.left_behind
    back = fwk.load(tmp_path / "run")
    assert back.untrained == () and back.task.labels() == loaded.task.labels()
    if kind != "choice":
        given = pairs()[:3]
    else:
        given = [{"context": "old dog", "choices": ["a red bird", "tree"]}]
    for ours, theirs in zip(back.predict(given), loaded.predict(given)):
        assert numbers(ours["label"]) == pytest.approx(numbers(theirs["label"]), abs=1e-5)
        assert kind == "number" or ours["label"]["prediction"] == theirs["label"]["prediction"]
    export(back, tmp_path / "again")
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "hf" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def numbers(prediction: dict) -> list[float]:
    """The probabilities of a prediction, the score of an answer, or the number itself."""
    values = prediction.get("probabilities", prediction.get("score", prediction["prediction"]))
    values = list(values.values()) if isinstance(values, dict) else values
    return torch.tensor(values).flatten().tolist()


# family, class, its options there, kind of label
THEIRS = [
    ("bert", "SequenceClassification", {"num_labels": 2}, "class"),
    ("electra", "SequenceClassification", {"num_labels": 1}, "number"),
    ("bert", "SequenceClassification", {"num_labels": 3, "problem_type": "regression"}, "numbers"),
    (
        "electra",
        "SequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        "classes",
    ),
    ("bert", "MultipleChoice", {}, "choice"),
    ("electra", "MultipleChoice", {}, "choice"),
    ("electra", "MultipleChoice", {"summary_activation": "tanh"}, "choice"),
    (
        "electra",
        "MultipleChoice",
        {"summary_activation": "", "summary_use_proj": False},
        "choice",
    ),
]


@pytest.mark.parametrize("family, task, options, kind", THEIRS)
@pytest.mark.mostly_slow("options0", "options6")
def test_a_model_of_transformers_predicts_the_same_here(tmp_path, family, task, options, kind):
    folder = write_model(tmp_path / "theirs", family, f"For{task}", **options)
    theirs = getattr(transformers, f"AutoModelFor{task}").from_pretrained(folder)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    theirs.save_pretrained(folder)
    import_folder(folder, tmp_path / "run")
    loaded = fwk.load(tmp_path / "run")
    assert loaded.task.label_kinds() == {"label": kind}

    tokenizer, given = loaded.tokenizer, list(TEXTS)
    before = [tokenizer.cls]
    if kind == "choice":
        given = [{"context": "a dog", "choices": TEXTS}]
        before += [*tokenizer.encode("a dog"), tokenizer.sep]
    ids = [[*before, *tokenizer.encode(text), tokenizer.sep] for text in TEXTS]
    T = max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (T - len(row)) for row in ids])
    tokens = torch.tensor([row + [0] * (T - len(row)) for row in ids])
    arguments = {"input_ids": tokens, "attention_mask": mask}
    if kind == "choice":
        segments = (torch.arange(T) >= len(before)).long() * mask
        arguments = {n: v[None] for n, v in {**arguments, "token_type_ids": segments}.items()}
    with torch.no_grad():
        logits = theirs.eval()(**arguments).logits
    expected = {"classes": logits.sigmoid(), "number": logits, "numbers": logits}
    expected = expected.get(kind, logits.softmax(-1))
    for row, prediction in zip(expected, loaded.predict(given)):
        assert numbers(prediction["label"]) == pytest.approx(row.tolist(), abs=1e-5)


def metrics_of(capsys, *arguments: object) -> dict:
    assert evaluate_command.main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)["metrics"]


def test_an_imported_classifier_is_evaluated_on_a_file_of_its_task(trained, tmp_path, capsys):
    loaded = trained("class", POOLER, {"pooler": True})
    export(loaded, tmp_path / "hf")
    loaded.save(tmp_path / "copy")
    command = [str(tmp_path / "hf"), str(tmp_path / "run"), "--texts", "first,second"]
    assert import_command.main(command) == 0
    assert "its head under 'classification'" in capsys.readouterr().out
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("class")), encoding="utf-8")
    ours = metrics_of(capsys, tmp_path / "run", f"task.valid={data}")
    theirs = metrics_of(capsys, tmp_path / "copy", f"task.valid={data}")
    assert ours == pytest.approx(theirs, abs=1e-5) and "accuracy" in ours


def test_training_starts_from_a_head_of_the_same_form_with_its_classes_in_order(trained, tmp_path):
    loaded = trained("class", POOLER, {"pooler": True})
    export(loaded, tmp_path / "hf")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("class")), encoding="utf-8")
    task = {"name": "examples", "data": str(data), "texts": ["first", "second"], "label": "label"}
    order = ["yes", "no", "maybe"]  # in the folder it is maybe, no, yes
    outputs = {}
    for pooling in ("pooler", "cls", None):
        stated = {} if pooling is None else {"pooling": pooling}
        config = {
            "task": {**task, "length": 20, "classes": order},
            "model": {"from": str(tmp_path / "hf")},
            "criterion": {"task": {"name": "classification", **stated}},
            "optimizer": {"name": "adamw", "lr": 1e-9},
            "train": {"updates": 1, "batch": 4, "device": "cpu", "save_every": 0},
            "hooks": {"terminal": None, "tensorboard": None, "summary": None},
        }
        run = fwk.train(config, run=str(tmp_path / str(pooling))).folder
        outputs[pooling] = fwk.load(run).module.criteria["task"].logits.output.weight
    expected = loaded.module.criteria["classification"].logits.output.weight[[2, 1, 0]]
    assert torch.allclose(outputs["pooler"], expected, atol=1e-6)
    assert torch.allclose(outputs[None], expected, atol=1e-6)
    assert not torch.allclose(outputs["cls"], expected, atol=1e-2)
    # the form that the config does not state is also that of the run when it resumes, without its source
    (tmp_path / "hf").rename(tmp_path / "gone")
    config["train"]["updates"] = 2
    fwk.train(config, run=str(run))
    resumed = fwk.load(run)
    assert resumed.update == 2
    assert resumed.config.criterion["task"].component.config.pooling == "pooler"


def test_a_head_takes_the_form_of_its_source_unless_the_config_states_one(trained):
    loaded = trained("span", {"head": "joint", "hidden": 8}, {})
    places = {"model": {"from": str(loaded.folder.parent.parent)}}
    task = {"name": "examples", "data": "none.jsonl", "texts": ["first", "second"], "kind": "span"}
    for stated, head, hidden in (({}, "joint", 8), ({"head": "independent"}, "independent", 512)):
        criterion = {"answers": {"name": "answer_span", **stated}}
        layer = ("test", {"task": task, "criterion": criterion, **places})
        origin = find_origin(resolve(layers=[layer]).config)
        taken = origin.config.criterion["answers"].component.config
        assert (taken.head, taken.hidden) == (head, hidden)


def test_a_folder_with_wrong_labels_and_wrong_names_of_texts_are_one_sentence(trained, tmp_path):
    folder = tmp_path / "hf"
    export(trained("class", {"hidden": "gelu"}, {}), folder)
    for texts in (["a", "a"], ["a", "b", "c"], [""], ["choices"]):
        with pytest.raises(ConfigError, match="--texts: names .*; expected one or two texts"):
            import_folder(folder, tmp_path / "run", texts=texts)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for changes, said in (
        ({"id2label": {"0": "a"}}, "id2label names 1 labels, and the head has 3"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "gives two labels the same name"),
        ({"id2label": [1]}, "config.json is damaged: id2label"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'; expected one of single_label"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        with pytest.raises(DataError, match=said):
            import_folder(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
