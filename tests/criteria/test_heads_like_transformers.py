"""On the same weights, batch and labels, losses and gradients are those of transformers' classes for tasks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

transformers = pytest.importorskip("transformers")

from fwk.components.registry import registry  # noqa: E402
from fwk.contracts.context import BuildContext, Vocabulary  # noqa: E402
from fwk.contracts.texts import tokens_label  # noqa: E402
from fwk.contracts.views import View  # noqa: E402
from fwk.hf.families import (  # noqa: E402
    ELECTRA,
    Architecture,
    bert_options,
    from_transformers,
    weight_names,
)
from fwk.models.bert import Bert  # noqa: E402

B, T, CLASSES = 5, 11, 3
CONFIG = {
    "vocab_size": 40,
    "hidden_size": 16,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": T,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
    "summary_last_dropout": 0.0,
}
SEQUENCE_HEAD = {"classifier.dense": "dense", "classifier.out_proj": "output"}
CHOICE_HEAD = {"sequence_summary.summary": "dense", "classifier": "output"}
# criterion -> options, its head, class of transformers, options there, names of the head's modules, kind of label
HEADS = {
    "classification": (
        {"hidden": "gelu", "dropout": 0.0},
        "logits",
        "ElectraForSequenceClassification",
        {"num_labels": CLASSES},
        SEQUENCE_HEAD,
        "class",
    ),
    "regression": (
        {"hidden": "gelu", "dropout": 0.0},
        "outputs",
        "ElectraForSequenceClassification",
        {"num_labels": 1, "problem_type": "regression"},
        SEQUENCE_HEAD,
        "number",
    ),
    "multilabel": (
        {"hidden": "gelu", "dropout": 0.0},
        "logits",
        "ElectraForSequenceClassification",
        {"num_labels": CLASSES, "problem_type": "multi_label_classification"},
        SEQUENCE_HEAD,
        "classes",
    ),
    "multiple_choice": (
        {"hidden": "gelu", "dropout": 0.0},
        "scores",
        "ElectraForMultipleChoice",
        {},
        CHOICE_HEAD,
        "choice",
    ),
    "answer_span": (
        {"positions": "all"},
        "head",
        "ElectraForQuestionAnswering",
        {},
        {"qa_outputs": "output"},
        "span",
    ),
}


def labels_of(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if name == "regression":
        return torch.rand(B, generator=generator) * 5
    if name == "multilabel":
        return torch.randint(0, 2, (B, CLASSES), generator=generator).float()
    if name == "answer_span":
        return torch.tensor([[2, 3], [0, 0], [1, 1], [4, 8], [3, 3]])
    return torch.randint(0, CLASSES, (B,), generator=generator)


@pytest.mark.parametrize("name", HEADS)
def test_losses_and_gradients_are_those_of_transformers(name: str) -> None:
    options, head, class_name, their_options, modules, kind = HEADS[name]
    torch.manual_seed(1)
    theirs = getattr(transformers, class_name)(
        transformers.ElectraConfig(**CONFIG, **their_options)
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    encoder, criterion = ours_like(theirs, name, options, head, modules, kind)

    rows = B * CLASSES if name == "multiple_choice" else B
    tokens = torch.randint(1, 40, (rows, T), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(T) < torch.arange(rows)[:, None] % 3 + 9
    segments = (torch.arange(T) > 4).long().expand(rows, T) * mask
    labels = labels_of(name)
    expected = their_loss(theirs, name, tokens, mask, segments, labels)

    repeats = rows // B
    by_row = labels.repeat_interleave(repeats, 0)
    view = View(
        name="view",
        draws=torch.arange(B).repeat_interleave(repeats),
        inputs={"tokens": tokens, "segments": segments},
        mask=mask,
        target=tokens,
        labels={"label": by_row, tokens_label("label"): torch.zeros(rows, T, dtype=torch.int64)},
    )
    view = view.replace(encoded=encoder(view.inputs, mask))
    views, context = {criterion.config.view: view}, SimpleNamespace(training=True)
    (term,) = criterion(views, context).terms.values()
    (count,) = criterion.normalizers(views, context).values()
    loss = term.sum / count

    assert abs(float(loss) - float(expected)) < 1e-5
    loss.backward()
    expected.backward()
    pairs = gradients(theirs, encoder, criterion, head, modules)
    assert len(pairs) > 20
    for ours, other in pairs:
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def ours_like(theirs, name, options, head, modules, kind):
    """Return the encoder and the criterion with the weights of a class of transformers."""
    config = Bert.Config(**bert_options(theirs.config.to_dict(), ELECTRA, "config"))
    values = {"class": tuple("abc"), "classes": tuple("abc")}.get(kind, ())
    build = BuildContext(
        name=name,
        key="criterion",
        vocabulary=Vocabulary(size=40, pad=0),
        labels={"label": values},
        label_kinds={"label": kind},
    )
    encoder = Bert(config, build)
    weights = {k.removeprefix("electra."): v for k, v in theirs.state_dict().items()}
    named = from_transformers(weights, weight_names(config, Architecture(ELECTRA, None)))
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in named.items()})
    cls = registry.get("criterion", name).cls
    criterion = cls(cls.Config(**options), BuildContext(**{**vars(build), "encoder": encoder}))
    for their_name, our_name in modules.items():
        module = getattr(criterion, head).get_submodule(our_name)
        module.load_state_dict(theirs.get_submodule(their_name).state_dict())
    return encoder, criterion


def their_loss(theirs, name, tokens, mask, segments, labels):
    arguments = {"input_ids": tokens, "attention_mask": mask.long(), "token_type_ids": segments}
    if name == "answer_span":
        arguments |= {"start_positions": labels[:, 0], "end_positions": labels[:, 1]}
    else:
        arguments["labels"] = labels
    if name == "multiple_choice":
        for key in ("input_ids", "attention_mask", "token_type_ids"):
            arguments[key] = arguments[key].view(B, CLASSES, T)
    return theirs(**arguments).loss


def gradients(theirs, encoder, criterion, head, modules):
    """Return pairs of gradients of the same weight."""
    grads = {
        k.removeprefix("electra."): p.grad
        for k, p in theirs.named_parameters()
        if p.grad is not None
    }
    names = weight_names(encoder.config, Architecture(ELECTRA, None))
    expected = from_transformers(grads, names)
    ours = {f"encoder.{k}": p.grad for k, p in encoder.named_parameters()}
    pairs = [(ours[k], g) for k, g in expected.items()]
    for their_name, our_name in modules.items():
        module = getattr(criterion, head).get_submodule(our_name)
        other = theirs.get_submodule(their_name)
        pairs += [(module.weight.grad, other.weight.grad), (module.bias.grad, other.bias.grad)]
    return pairs
