"""Tests of metrics against other scorers, on the files that fwk-evaluate writes.

The scorers are that of the CoNLL 2018 shared task (udtools), udapi, conlleval and seqeval. A last test compares
training with the loop that the benchmark writes by hand.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cases import CASES, SENTENCES, TREEBANK
from support.paths import ROOT

from fwk.cli.evaluate import main as evaluate_command
from fwk.testing import (
    difference,
    differentiate_once,
    merge_settings,
    tiny_config,
    train_briefly,
    trainer_of,
)
from fwk_plugins.cvt.corpora import tags
from fwk_plugins.cvt.corpora.readers import read_conllu
from fwk_plugins.cvt.corpora.trees import tree_fault
from fwk_plugins.cvt.corpora.writers import write_conllu
from fwk_plugins.cvt.scoring import scores

pytestmark = pytest.mark.slow  # every test trains a tagger or a parser first

EXACT = 1e-9  # both divide whole numbers
SUBTYPES = {"nsubj": "nsubj:pass", "obj": "obj:x", "det": "det:x"}


def written(sentences, path: Path) -> Path:
    with path.open("w", encoding="utf-8") as out:
        write_conllu(sentences, out)
    return path


def related(sentences, relation):
    """Return the sentences with other relations: relation(UPOS in the treebank, present relation)."""
    return [
        replace(
            s,
            columns={
                **s.columns,
                "deprel": tuple(map(relation, s.columns["upos"], s.columns["deprel"])),
            },
        )
        for s in sentences
    ]


def official(gold: Path, predicted: Path) -> dict:
    """Return the scores of the shared task, which compares relations without subtypes."""
    scorer = pytest.importorskip("udtools.udeval")
    return scorer.evaluate(scorer.load_conllu_file(gold), scorer.load_conllu_file(predicted))


def by_udapi(gold: Path, predicted: Path) -> dict[str, float]:
    """Return attachment scores of udapi: all words count, and relations have subtypes."""
    document = pytest.importorskip("udapi.core.document").Document
    from udapi.block.eval.parsing import Parsing

    counted = Parsing(gold_zone="gold")
    for ours, theirs in zip(document(str(predicted)), document(str(gold)), strict=True):
        tree = theirs.get_tree()
        tree.zone = "gold"
        ours.add_tree(tree)
        counted.process_tree(ours.get_tree())
    return {"uas": counted.correct_uas / counted.total, "las": counted.correct_las / counted.total}


@pytest.fixture(scope="module")
def treebank(tmp_path_factory) -> Path:
    """The tiny treebank, every other sentence with subtypes of relations."""
    sentences = list(read_conllu(TREEBANK["path"]))
    subtyped = related(sentences[::2], lambda upos, relation: SUBTYPES.get(relation, relation))
    return written(
        [*subtyped, *sentences[1::2]], tmp_path_factory.mktemp("treebank") / "gold.conllu"
    )


def parsed(
    tmp_path: Path, capsys, treebank: Path, updates: int, *overrides: str, **criterion
) -> tuple[dict[str, float], Path]:
    """Return the metrics of a parser trained for some updates, and the file of its predictions."""
    case = merge_settings(
        CASES["tagger and parser that are imitated"],
        {
            "task": {"data": {"tiny": {"path": str(treebank), "valid": str(treebank)}}},
            "criterion": {"tree": criterion},
            "train": {"updates": updates, "precision": "fp32"},
            "optimizer": {"lr": 0.02},
        },
    )
    train_briefly(tiny_config(case), tmp_path / "run", updates)
    predicted = tmp_path / "said.conllu"
    assert (
        evaluate_command([str(tmp_path / "run"), "--predictions", str(predicted), *overrides]) == 0
    )
    return json.loads(capsys.readouterr().out)["metrics"], predicted


@pytest.mark.parametrize("updates", [2, 30])  # of few updates come trees that only a search finds
def test_attachment_and_tags_are_those_of_the_shared_tasks_scorer(
    updates, treebank, tmp_path, capsys
):
    """The scorer counts all words. To leave punctuation out, relations of PUNCT are made wrong in the predictions.

    For UAS, all other relations are made equal.
    """
    metrics, predicted = parsed(tmp_path, capsys, treebank, updates, subtypes=False)
    gold, ours = list(read_conllu(treebank)), list(read_conllu(predicted))
    ours_of_gold = [
        replace(s, columns={**s.columns, "upos": g.columns["upos"]})
        for s, g in zip(ours, gold, strict=True)
    ]
    counted = sum(upos != "PUNCT" for s in gold for upos in s.columns["upos"])
    for name, one in (("las", False), ("uas", True)):
        sides = [
            related(side, lambda upos, relation, one=one: "dep" if one else relation)
            for side in (gold, ours_of_gold)
        ]
        sides[1] = related(
            sides[1], lambda upos, relation: "wrong" if upos == "PUNCT" else relation
        )
        files = [
            written(side, tmp_path / file)
            for side, file in zip(sides, ("gold.conllu", "ours.conllu"))
        ]
        assert metrics[f"tree/{name}"] == pytest.approx(
            official(*files)["LAS"].correct / counted, abs=EXACT
        )
    assert metrics["pos/accuracy"] == pytest.approx(
        official(treebank, predicted)["UPOS"].f1, abs=EXACT
    )
    assert 0 < metrics["tree/las"] < metrics["tree/uas"] < 1


def test_without_punctuation_attachment_is_that_of_two_scorers_with_subtypes_and_without(
    treebank, tmp_path, capsys
):
    """Where no word is PUNCT, all words count, as in the scorers."""
    gold = written(no_punctuation(read_conllu(treebank)), tmp_path / "gold.conllu")
    other_metrics, predicted = parsed(tmp_path / "told", capsys, gold, 6)
    assert {name: other_metrics[f"tree/{name}"] for name in ("uas", "las")} == pytest.approx(
        by_udapi(gold, predicted), abs=EXACT
    )
    plain, predicted = parsed(tmp_path / "plain", capsys, gold, 6, subtypes=False)
    result = official(gold, predicted)
    assert (plain["tree/uas"], plain["tree/las"]) == pytest.approx(
        (result["UAS"].f1, result["LAS"].f1), abs=EXACT
    )
    assert plain["tree/las"] > other_metrics["tree/las"]  # the weights are the same


def no_punctuation(sentences):
    """The scorers count every word, and no word of this treebank is PUNCT."""
    return [
        replace(
            s,
            columns={
                **s.columns,
                "upos": tuple("SYM" if u == "PUNCT" else u for u in s.columns["upos"]),
            },
        )
        for s in sentences
    ]


@pytest.mark.parametrize("unseen", ["some subtypes", "all subtypes", "all relations"])
def test_relations_that_training_never_saw_are_scored_as_the_scorers_do(
    unseen, treebank, tmp_path, capsys
):
    relations = {
        "some subtypes": lambda upos, relation: f"{relation}:new" if upos == "NOUN" else relation,
        "all subtypes": lambda upos, relation: f"{relation.partition(':')[0]}:new",
        "all relations": lambda upos, relation: f"x{relation}",
    }
    seen = no_punctuation(read_conllu(treebank))
    gold = written(related(seen, relations[unseen]), tmp_path / "gold.conllu")
    known = written(seen, tmp_path / "known.conllu")
    metrics, predicted = parsed(
        tmp_path / "plain", capsys, known, 6, f"task.data.tiny.valid={gold}", subtypes=False
    )
    result = official(gold, predicted)
    assert (metrics["tree/uas"], metrics["tree/las"]) == pytest.approx(
        (result["UAS"].f1, result["LAS"].f1), abs=EXACT
    )
    assert (metrics["tree/las"] > 0) == (unseen != "all relations") and metrics["tree/uas"] > 0
    other_metrics, predicted = parsed(
        tmp_path / "told", capsys, known, 6, f"task.data.tiny.valid={gold}"
    )
    assert {name: other_metrics[f"tree/{name}"] for name in ("uas", "las")} == pytest.approx(
        by_udapi(gold, predicted), abs=EXACT
    )


def test_multiword_tokens_are_written_as_the_scorer_wants_them(treebank, tmp_path, capsys):
    sentences = no_punctuation(read_conllu(treebank))
    gold = written(
        [
            replace(s, joined=((1, 2, "du"), (3, 5, "l'au-delà")) if len(s.words) > 4 else ())
            for s in sentences
        ],
        tmp_path / "gold.conllu",
    )
    assert [s.joined for s in read_conllu(gold) if s.joined]
    metrics, predicted = parsed(tmp_path / "run", capsys, gold, 2)
    result = official(gold, predicted)
    assert metrics["tree/uas"] == pytest.approx(result["UAS"].f1, abs=EXACT) and metrics[
        "pos/accuracy"
    ] == pytest.approx(result["UPOS"].f1, abs=EXACT)


def test_attachment_of_random_trees_is_that_of_the_shared_tasks_scorer(tmp_path):
    generator, names = (
        np.random.default_rng(3),
        ("root", "nsubj", "nsubj:pass", "obl:tmod", "obl:agent", "case"),
    )
    sentences = list(read_conllu(TREEBANK["path"]))

    def drawn(sentence):
        n = len(sentence.words)
        while (
            True
        ):  # each word hangs from one of those before it in a random order, so that it is a tree
            order = generator.permutation(n) + 1
            heads = dict(
                zip(order.tolist(), [0, *(int(order[generator.integers(k)]) for k in range(1, n))])
            )
            candidate = tuple(heads[word] for word in range(1, n + 1))
            if tree_fault(candidate) is None:
                break
        return replace(
            sentence,
            heads=candidate,
            columns={**sentence.columns, "deprel": tuple(generator.choice(names, n).tolist())},
        )

    gold, predicted = ([drawn(s) for s in sentences] for _ in range(2))
    result = official(
        written(gold, tmp_path / "gold.conllu"), written(predicted, tmp_path / "said.conllu")
    )
    number = {name: index for index, name in enumerate(names)}
    heads, labels = zip(
        *(
            (
                [torch.tensor([s.heads]) for s in side],
                [torch.tensor([[number[r] for r in s.columns["deprel"]]]) for s in side],
            )
            for side in (predicted, gold)
        )
    )
    counts = sum(
        scores.attachment_counts(
            heads[0][i],
            labels[0][i],
            heads[1][i],
            labels[1][i],
            torch.ones_like(heads[0][i]) > 0,
            scores.without_subtypes(names),
        )
        for i in range(len(gold))
    )
    assert scores.attachment_scores(counts) == pytest.approx(
        {"uas": result["UAS"].f1, "las": result["LAS"].f1}, abs=EXACT
    )


# -- spans -------------------------------------------------------------------------------------------------------------

STRICT = {"IOB1": "IOB1", "IOB2": "IOB2", "BIOES": "IOBES"}  # what seqeval calls them


def drawn_tags(generator: random.Random, scheme: str, kinds=("PER", "LOC")) -> list[str]:
    """Return the tags of a sentence whose spans are drawn one after the other."""
    spans, at, length = [], 0, generator.randint(1, 12)
    while at < length:
        size = min(generator.randint(1, 3), length - at)
        if generator.random() < 0.6:
            spans.append((at, at + size, generator.choice(kinds)))
        at += size
    return list(tags.tags_of(spans, length, scheme))


def of_spans(predicted, gold, scheme) -> dict[str, float]:
    sides = [[tags.spans_of(sequence, scheme) for sequence in side] for side in (predicted, gold)]
    return scores.span_scores(scores.span_counts(*sides, ("LOC", "PER")))


def of_seqeval(predicted, gold, **mode) -> dict[str, float]:
    metrics = pytest.importorskip("seqeval.metrics")
    return {
        name: getattr(metrics, f"{name}_score")(gold, predicted, **mode)
        for name in ("precision", "recall", "f1")
    }


def two_taggings(scheme: str, seed: int):
    generator = random.Random(seed)
    gold = [drawn_tags(generator, scheme) for _ in range(60)]
    predicted = []
    for sequence in gold:
        other = drawn_tags(generator, scheme)
        predicted.append(
            sequence
            if generator.random() < 0.4
            else (other * 12)[: len(sequence)]
            if len(other) == len(sequence)
            else list(
                tags.tags_of(
                    [s for s in tags.spans_of(sequence, scheme) if generator.random() < 0.5],
                    len(sequence),
                    scheme,
                )
            )
        )
    return predicted, gold


@pytest.mark.parametrize("scheme", STRICT)
@pytest.mark.parametrize("seed", range(3))
def test_spans_of_tags_that_follow_their_scheme_are_those_of_seqeval_strict_or_not(scheme, seed):
    pytest.importorskip("seqeval")
    from seqeval import scheme as schemes

    predicted, gold = two_taggings(scheme, seed)
    ours = of_spans(predicted, gold, scheme)
    assert ours == pytest.approx(of_seqeval(predicted, gold), abs=EXACT) and 0 < ours["f1"] < 1
    assert ours == pytest.approx(
        of_seqeval(predicted, gold, mode="strict", scheme=getattr(schemes, STRICT[scheme])),
        abs=EXACT,
    )


@pytest.mark.parametrize("scheme", STRICT)
@pytest.mark.parametrize("seed", range(3))
def test_spans_of_tags_that_break_their_scheme_are_those_of_seqeval_and_conlleval(scheme, seed):
    """Strict scoring would drop such spans; a model's tags are repaired, as conlleval does."""
    generator = random.Random(seed)
    gold = [drawn_tags(generator, scheme) for _ in range(60)]
    known = sorted({tag for sequence in gold for tag in sequence})
    predicted = [
        [generator.choice(known) if generator.random() < 0.3 else tag for tag in sequence]
        for sequence in gold
    ]
    ours = of_spans(predicted, gold, scheme)
    assert ours == pytest.approx(of_seqeval(predicted, gold), abs=EXACT) and 0 < ours["f1"] < 1
    lines = [
        line
        for sequence in zip(gold, predicted)
        for line in [*(f"word {g} {s}" for g, s in zip(*sequence)), ""]
    ]
    assert ours == pytest.approx(of_conlleval(lines), abs=EXACT)


def of_conlleval(lines) -> dict[str, float]:
    overall = pytest.importorskip("conlleval").evaluate(lines)["overall"]["chunks"]["evals"]
    return {"precision": overall["prec"], "recall": overall["rec"], "f1": overall["f1"]}


NAMES = {
    "PER": ("Ann", "Bo", "Cy"),
    "LOC": ("Rome", "Oslo"),
    "ORG": ("UN", "EU"),
    "O": ("the", "dog", "sees", ","),
}


def drawn_columns(path: Path, seed: int, scheme: str, kinds=("PER", "LOC")) -> Path:
    """Write sentences with names of these kinds in columns; the column of tags is followed by another one."""
    generator = random.Random(seed)
    lines = []
    for _ in range(60):
        for tag in drawn_tags(generator, scheme, kinds):
            word = generator.choice(NAMES[tag[2:] or "O"])
            lines.append(f"{word} {tag} {'X' if word.islower() else 'Y'}")
        lines.append("")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("scheme", STRICT)
@pytest.mark.parametrize(
    "kinds",
    [("PER", "LOC"), ("PER", "LOC", "ORG"), ("ORG",)],
    ids=["all_seen", "one_unseen", "none_seen"],
)
def test_conlleval_reads_what_was_said_of_columns_and_finds_the_metrics(
    scheme, kinds, tmp_path, capsys
):
    path = drawn_columns(tmp_path / "ner.txt", 4, scheme)
    judged = (
        path if kinds == ("PER", "LOC") else drawn_columns(tmp_path / "valid.txt", 5, scheme, kinds)
    )
    data = {
        "ner": {
            "path": str(path),
            "valid": str(judged),
            "columns": ["word", "tag", "shape"],
            "labels": {"ner": {"spans": "tag"}},
        }
    }
    config = tiny_config(
        {
            **SENTENCES,
            "task": {**SENTENCES["task"], "data": data},
            "optimizer": {"lr": 0.02},
            "criterion": {"cvt_tagging": {"label": "ner", "students": "none"}},
            "train": {"updates": 30, "precision": "fp32"},
        }
    )
    train_briefly(config, tmp_path / "run", 30)
    predicted = tmp_path / "said.txt"
    assert evaluate_command([str(tmp_path / "run"), "--predictions", str(predicted)]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    result = of_conlleval(predicted.read_text().splitlines())
    assert result == pytest.approx(
        {name: metrics[f"cvt_tagging/{name}"] for name in result}, abs=EXACT
    )
    assert result["f1"] < 1 and (result["f1"] > 0) == (kinds != ("ORG",))


# -- the benchmark -----------------------------------------------------------------------------------------------------


def test_the_benchmarks_loop_by_hand_trains_what_fwk_trains(tmp_path, monkeypatch):
    """Gradients agree on the same labelled and unlabelled sentences, in fp32.

    They are not equal to the bit, because cross-entropies are summed in another order.
    """
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import common
    from benchmarks.methods import cvt

    path = cvt.treebank(tmp_path / "bank.conllu", 100, 3, 9, vocabulary=60)
    assert all(tree_fault(s.heads) is None for s in read_conllu(path))
    config = cvt.config(
        path, 8, width=6, words=5, characters=4, filters=3, dropout=0.0, unlabelled_dropout=0.0
    )
    kinds = set()
    with trainer_of(config) as ours, trainer_of(config) as theirs:
        step, loss = cvt.by_hand(theirs, 8)
        for update in range(6):
            ours.run.update = theirs.run.update = update
            theirs.run.module.load_state_dict(ours.run.module.state_dict())
            sides = []
            for trainer, differentiate in (
                (ours, lambda: differentiate_once(ours)),
                (theirs, lambda: loss().backward()),
            ):
                trainer.run.module.zero_grad(set_to_none=True)
                differentiate()
                sides.append(
                    {
                        name: p.grad
                        for name, p in trainer.run.module.named_parameters()
                        if name != "anchor"
                    }
                )
            assert difference(*sides) < 1e-5
            kinds.add(any(g is not None for name, g in sides[0].items() if "students" in name))
            step()  # goes on to the next sentences
    assert kinds == {True, False} and "<!-- cvt -->\n" in common.PAGE.read_text(encoding="utf-8")
