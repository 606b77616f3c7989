"""Scores of text: each component against a slow reference, lines and their journal, minimal pairs, n-best lists."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import fwk
from fwk.cli.score import main
from fwk.errors import ConfigError, DataError, UserError
from fwk.scoring import nbest
from fwk.scoring.pairs import accuracies, read_pairs
from fwk.scoring.scorer import ScoredText, Scorer
from fwk.scoring.stream import Journal
from fwk_plugins.electra.criteria.replaced_token_detection import log_p

WORDS = (
    "the dog sees a cat .",
    "a small cat sleeps here .",
    "the old man reads books about birds .",
    "birds sing .",
    "she reads the book to a dog .",
    "no cat sees the bird .",
)
CLOZE = {
    "corrupted": {
        "noiser": "two_tower",
        "of": "masked",
        "network": {"name": "scaled", "towers": True, "width": 0.5},
    }
}
MODELS = {
    "masked_lm": {"criterion": "masked_lm"},
    "semantic_augment": {"criterion": "semantic_augment"},
    "electric": {
        "criterion": "noise_contrastive",
        "views": {"corrupted": {"network": {"width": 0.5}}},
    },
    "electra": {
        "criterion": "replaced_token_detection",
        "views": {"corrupted": {"network": {"width": 0.5}}},
    },
    "electra_tt": {"criterion": "replaced_token_detection", "views": CLOZE},
    "random": {
        "criterion": "replaced_token_detection",
        "views": {"corrupted": {"noiser": "bert_mask", "random": 1.0, "mask": 0.0}},
    },
    "two_tower": {"criterion": "cloze", "model": {"name": "two_tower"}},
    "chosen": {"criterion": {"replaced_token_detection": {"positions": "chosen"}}, "views": CLOZE},
    "causal_lm": {"criterion": "causal_lm", "model": {"direction": "left_to_right"}},
    "causal_lm_back": {"criterion": "causal_lm", "model": {"direction": "right_to_left"}},
    "replace_mlm": {
        "criterion": "replace_mlm",
        "views": {"corrupted": {"network": {"width": 0.5}}},
    },
}
SIZES = {"layers": 2, "width": 32, "heads": 4, "positions": "learned", "initialisation": "fan_in"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function: name -> a run's folder, trained for a moment on a few sentences."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text("\n\n".join(" ".join(WORDS) for _ in range(40)), encoding="utf-8")
    folders = {}

    def run(name: str):
        if name not in folders:
            options = MODELS[name]
            folders[name] = fwk.train(
                {
                    "task": {
                        "name": "mlm",
                        "data": str(text),
                        "length": 16,
                        "vocabulary": 200,
                        "tokenizer": "wordpiece",
                    },
                    **options,
                    "model": {"name": "bert", **options.get("model", {}), **SIZES},
                    "optimizer": {"name": "adamw", "lr": 1e-3},
                    "train": {
                        "updates": 2,
                        "batch": 4,
                        "device": "cpu",
                        "save_every": 0,
                        "validate_every": 0,
                    },
                    "hooks": {"terminal": None, "tensorboard": None, "summary": None},
                },
                run=str(folder / name),
            ).folder
        return folders[name]

    return run


@pytest.fixture(scope="module")
def scorer(runs):
    return lambda name, **arguments: Scorer(fwk.load(runs(name)), **arguments)


def texts(*lines: str) -> list[ScoredText]:
    return [ScoredText(line, "lines.txt", number) for number, line in enumerate(lines, start=1)]


def framed(scorer: Scorer, line: str) -> torch.Tensor:
    tokenizer = scorer.loaded.tokenizer
    return torch.tensor([[tokenizer.cls, *tokenizer.encode(line), tokenizer.sep]])


# -- what each says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["masked_lm", "semantic_augment"])
def test_a_masked_lm_scores_each_token_where_it_alone_is_masked(scorer, name):
    instance = scorer(name)
    instance.module.double()
    head = instance.component.head
    for one, line in zip(instance(texts(*WORDS)), WORDS, strict=True):
        ids = framed(instance, line)
        for place in range(1, ids.shape[1] - 1):
            copy = ids.clone()
            copy[0, place] = instance.loaded.tokenizer.mask
            with torch.no_grad():
                logits = head(instance.loaded.model({"tokens": copy}, None).features[0, place])
            assert one.log_probs[place - 1] == pytest.approx(
                float(logits.log_softmax(0)[ids[0, place]]), abs=2e-6
            )
        assert len(one.tokens) == ids.shape[1] - 2 and one.score == pytest.approx(
            sum(one.log_probs)
        )


def test_electric_scores_by_its_energies_in_one_pass(scorer):
    instance = scorer("electric", by="noise_contrastive")
    calls = instance.module.encoding.calls
    one = instance(texts(WORDS[2]))[0]
    assert instance.module.encoding.calls == calls + 1
    with torch.no_grad():
        features = instance.loaded.model({"tokens": framed(instance, WORDS[2])}, None).features
        energies = instance.component.energies(features)[0, 1:-1]
    np.testing.assert_allclose(one.log_probs, -energies.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    "name, by", [("two_tower", None), ("electric", "corrupted"), ("electra_tt", "corrupted")]
)
def test_a_cloze_model_gives_a_distribution_for_each_place(scorer, name, by):
    """Its log p of every token that could stand there sums to one, the rest of the text as it is."""
    instance = scorer(name, by=by)
    ids = framed(instance, WORDS[0])
    V, place = instance.loaded.tokenizer.size, 3
    rows = np.repeat(ids.numpy(), V, axis=0)
    rows[:, place] = np.arange(V)
    text = instance.task.batch_of(rows)
    views = instance.module.static_of_this_phase(text, "score")
    micro = instance.module.begin(views, 0, _step())
    context = instance.module.contexts.for_scoring(instance.path, micro, _step(), 10_000)
    from fwk.contracts.views import View

    with torch.no_grad():
        values = instance.component.log_probs(
            View.from_batch(text, "text").replace(mask=None), micro.views, instance.options, context
        )
    assert float(values[:, place].double().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert instance(texts(WORDS[0]))[0].log_probs[place - 1] == pytest.approx(
        float(values[int(ids[0, place]), place]), abs=1e-5
    )


@pytest.mark.parametrize("name", ["causal_lm", "causal_lm_back"])
def test_a_causal_lm_scores_each_token_from_what_it_has_read(scorer, name):
    instance = scorer(name)
    ids = framed(instance, WORDS[2])
    with torch.no_grad():
        logits = instance.component.head(instance.loaded.model({"tokens": ids}, None).features)[
            0
        ].log_softmax(-1)
    step = -1 if name == "causal_lm" else 1
    wanted = [float(logits[place + step, ids[0, place]]) for place in range(1, ids.shape[1] - 1)]
    np.testing.assert_allclose(instance(texts(WORDS[2]))[0].log_probs, wanted, atol=1e-5)
    # what comes later changes nothing: the same beginning (or end) has the same scores
    other = WORDS[2].split()
    other[-2 if name == "causal_lm" else 0] = "cat"
    both = [one.log_probs for one in instance(texts(WORDS[2], " ".join(other)))]
    same = slice(0, 3) if name == "causal_lm" else slice(-3, None)
    np.testing.assert_allclose(both[0][same], both[1][same], atol=1e-5)


def _step():
    from fwk.engine.update import Update

    return Update(split="score")


def test_the_exact_estimate_recovers_the_data_distribution_and_the_published_one_does_not():
    """Of an optimal discriminator: P(original) and P(replaced) from counting what the noise does."""
    generator = torch.Generator().manual_seed(3)
    p, q = (
        torch.rand(1, 50, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(2)
    )
    for n in (5, 40):
        k = math.ceil(0.15 * n)
        r = torch.tensor([[k / n]], dtype=torch.float64)
        original = (1 - r) * p + r * q * p  # left alone, or drawn and the same
        wrong = r * q * (1 - p)
        log_odds = (original / wrong).log()
        exact = log_p(log_odds, q.log(), r, "exact").exp()
        torch.testing.assert_close(exact, p)
        assert float(exact.sum()) == pytest.approx(1, abs=1e-12)
        published = log_p(log_odds, q.log(), r, "published").exp()
        D = original / (original + wrong)
        torch.testing.assert_close(published, k * q * D / (n * (1 - D)))
        assert (published - p).abs().max() > 1e-4


@pytest.mark.parametrize("estimate", ["published", "exact"])
def test_electra_tt_scores_from_its_discriminator_and_its_noise(scorer, estimate):
    instance = scorer("electra_tt", by="replaced_token_detection", options={"estimate": estimate})
    ids = framed(instance, WORDS[4])
    n = ids.shape[1] - 2
    q = scorer("electra_tt", by="corrupted")(texts(WORDS[4]))[0].log_probs
    with torch.no_grad():
        logits = instance.component.head(instance.loaded.model({"tokens": ids}, None).features)[
            0, 1:-1, 0
        ].double()
    r, o, q = math.ceil(0.15 * n) / n, (-logits).exp().numpy(), np.exp(q)
    wanted = o * r * q / ((1 - r) + r * q + o * r * q) if estimate == "exact" else r * q * o
    np.testing.assert_allclose(instance(texts(WORDS[4]))[0].log_probs, np.log(wanted), atol=1e-5)


@pytest.mark.slow
def test_scores_do_not_depend_on_what_else_is_scored(scorer):
    many = [*WORDS, " ".join(WORDS[:2]), "cat", *WORDS[::-1]]
    for name in ("masked_lm", "electric", "electra_tt"):
        by = (
            "noise_contrastive"
            if name == "electric"
            else "replaced_token_detection"
            if name == "electra_tt"
            else None
        )
        together = scorer(name, by=by)(texts(*many))
        for budget in (1, 40):
            alone = scorer(name, by=by, budget=budget)
            for line, one in zip(many, together, strict=True):
                np.testing.assert_allclose(
                    alone(texts(line))[0].log_probs, one.log_probs, atol=1e-5
                )


def test_it_says_what_can_score_and_what_cannot(scorer):
    with pytest.raises(
        ConfigError, match="'replace_mlm' cannot score text; components that can: corrupted"
    ):
        scorer("replace_mlm", by="replace_mlm")
    assert scorer("replace_mlm").by == "corrupted"  # its generator is a masked LM
    with pytest.raises(
        ConfigError,
        match="--by: 'maskedlm' is neither a criterion nor a view.*Did you mean 'masked_lm'",
    ):
        scorer("masked_lm", by="maskedlm")
    with pytest.raises(ConfigError, match="no such option. Did you mean 'estimate'"):
        scorer("electra_tt", by="replaced_token_detection", options={"estimat": "exact"})
    with pytest.raises(ConfigError, match="estimate: expected one of"):
        scorer("electra_tt", by="replaced_token_detection", options={"estimate": "best"})


def test_a_discriminator_scores_with_noise_that_knows_its_probabilities_only(scorer):
    assert (
        scorer("electra")(texts(WORDS[0]))[0].score < 0
    )  # q of its generator, one masked copy for each token
    instance = scorer("random")
    with pytest.raises(
        ConfigError, match="views.corrupted.noiser: does not know the probability of a token"
    ):
        instance(texts(WORDS[0]))


# -- lines -----------------------------------------------------------------------------------------


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def test_lines_come_out_in_order_with_their_numbers_and_tokens(runs, lines, tmp_path, capsys):
    assert (
        main([str(runs("masked_lm")), "--text", str(lines), "--per-token", "--device", "cpu"]) == 0
    )
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["line"] for one in printed] == [1, 2, 3, 4, 5, 6]
    for one in printed:
        assert one["tokens"] == len(one["per_token"])
        assert one["score"] == pytest.approx(sum(value for _, value in one["per_token"]))
    output = tmp_path / "out.jsonl"
    assert (
        main(
            [
                str(runs("masked_lm")),
                "--text",
                str(lines),
                "--output",
                str(output),
                "--normalise",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    for one, other in zip(lines_of(output), printed, strict=True):
        assert (
            one["score"] == pytest.approx(other["score"] / other["tokens"])
            and "per_token" not in one
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.txt", "out.jsonl"]


def test_what_cannot_be_scored_is_refused_with_file_and_line_or_null(runs, tmp_path, capsys):
    path, output = tmp_path / "lines.txt", tmp_path / "out.jsonl"
    command = [
        str(runs("masked_lm")),
        "--text",
        str(path),
        "--output",
        str(output),
        "--device",
        "cpu",
    ]
    for text, message in (
        ("a cat .\n\nbirds .\n", "line 2: the text has no tokens"),
        ("a cat .\n" + "a cat sees the dog " * 9, "more than the 16 that the model reads"),
    ):
        path.write_text(text, encoding="utf-8")
        assert main(command) == 2
        error = capsys.readouterr().err
        assert (
            f"{path}, line 2: the text" in error
            and message in error
            and len(error.splitlines()) == 1
        )
        assert not output.exists()
        assert main([*command, "--lenient"]) == 0
        assert [one["line"] for one in lines_of(output) if one["score"] is None] == [2]
        output.unlink()
    assert main([*command, "--cut"]) == 0
    assert lines_of(output)[1]["tokens"] == 14
    path.write_bytes(b"fine .\nnot \xff fine .\n")
    assert main([*command, "--overwrite"]) == 2 and "line 2: not UTF-8" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_file(runs, tmp_path):
    path, output, whole = tmp_path / "lines.txt", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    path.write_text("\n".join(WORDS * 1000), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "fwk.cli.score",
        str(runs("masked_lm")),
        "--text",
        str(path),
        "--device",
        "cpu",
        "--quiet",
        "--threads",
        "1",
    ]
    subprocess.run([*command, "--output", str(whole)], check=True)
    process = subprocess.Popen([*command, "--output", str(output)])
    partial = tmp_path / "out.jsonl.partial"
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.stat().st_size and not output.exists()
    with open(partial, "ab") as file:
        file.write(b'{"line": 9, "sco')  # a torn line
    ended = subprocess.run(
        [*command[:-3], "--output", str(output)], capture_output=True, text=True, check=True
    )
    assert "continuing after" in ended.stderr
    assert output.read_bytes() == whole.read_bytes() and not partial.exists()


def test_a_journal_of_other_things_is_not_gone_on_with(tmp_path):
    output = tmp_path / "out"
    journal = Journal(output, {"model": "a"})
    journal.write([{"x": 1}, {"x": 2}])
    journal.close()
    assert Journal(output, {"model": "a"}).done == 2
    assert Journal(output, {"model": "b"}).done == 0
    output.write_text("there")
    with pytest.raises(UserError, match="exists"):
        Journal(output, {"model": "b"})
    with pytest.raises(UserError, match="there is no folder"):
        Journal(tmp_path / "nowhere" / "out", {})


def test_several_files_go_on_where_they_were(runs, tmp_path):
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text("\n".join(WORDS[number:] * 7), encoding="utf-8")
    command = [
        str(runs("electric")),
        "--by",
        "noise_contrastive",
        "--text",
        *map(str, files),
        "--device",
        "cpu",
        "--quiet",
    ]
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert main([*command, "--output", str(whole)]) == 0
    assert {(one["file"], one["line"]) for one in lines_of(whole)} == {
        (str(file), line)
        for file in files
        for line in range(1, len(file.read_text().splitlines()) + 1)
    }
    from fwk.cli import score

    arguments = score.parser().parse_args([*command, "--output", str(output)])
    journal = score.open_journal(arguments, score.load_scorer(arguments, {}), arguments.text)
    journal.write(lines_of(whole)[:50])
    journal.close()
    assert main([*command, "--output", str(output)]) == 0
    assert output.read_bytes() == whole.read_bytes()


def test_what_was_interrupted_as_one_thing_is_not_gone_on_with_as_another(runs, tmp_path):
    path = pairs_file(tmp_path, [{"sentence_good": "a cat .", "sentence_bad": "cat a ."}])
    output = tmp_path / "out"
    from fwk.cli import score

    command = [str(runs("masked_lm")), "--text", path, "--output", str(output), "--device", "cpu"]
    arguments = score.parser().parse_args(command)
    journal = score.open_journal(arguments, score.load_scorer(arguments, {}), [path])
    journal.write([{"line": 1, "score": -1.0}])
    journal.close()
    assert main([command[0], "--pairs", path, *command[3:], "--quiet"]) == 0
    assert json.loads(output.read_text())["overall"]["pairs"] == 1


def test_wrong_input_leaves_nothing_and_a_folder_is_no_output(runs, tmp_path, capsys):
    path = tmp_path / "lines.txt"
    path.write_text("a cat .\n\n", encoding="utf-8")
    command = [str(runs("masked_lm")), "--text", str(path), "--device", "cpu", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["lines.txt"]
    for output in (str(tmp_path), ".", ""):
        assert (
            main([*command, output, "--overwrite"]) == 2
            and "is a folder" in capsys.readouterr().err
        )


@pytest.mark.slow
def test_long_lines_are_scored_few_at_a_time(scorer, monkeypatch):
    instance, sizes = scorer("masked_lm"), []

    def spy(texts, **how):
        sizes.append(len(texts))
        return [None] * len(texts)

    from fwk.scoring import stream

    monkeypatch.setattr(stream, "CHARACTERS", 100)
    assert len(list(stream.score_texts(spy, texts(*["x" * 40] * 7, "y" * 500, *["z"] * 3)))) == 11
    assert sizes == [2, 2, 2, 1, 1, 3]
    with pytest.raises(DataError, match="has 9"):
        instance(texts("cat " * 900_000))
    assert (
        len(instance(texts("cat " * 900_000), cut=True)[0].tokens) == 14
    )  # without tokenizing all of it


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.slow
def test_narrow_precision_is_close(scorer, precision):
    for name, by in (
        ("masked_lm", None),
        ("electric", "noise_contrastive"),
        ("electra_tt", "replaced_token_detection"),
    ):
        wide, narrow = (
            scorer(name, by=by, precision=one)(texts(*WORDS)) for one in ("fp32", precision)
        )
        for one, other in zip(wide, narrow, strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=0.15)


def test_the_average_of_the_weights_can_score(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(WORDS) for _ in range(40)), encoding="utf-8")
    fwk.train(
        {
            "task": {
                "name": "mlm",
                "data": str(text),
                "length": 16,
                "vocabulary": 200,
                "tokenizer": "wordpiece",
            },
            "criterion": "masked_lm",
            "model": {"name": "bert", **SIZES},
            "train": {"updates": 3, "batch": 4, "device": "cpu", "ema": 0.9},
            "hooks": {"terminal": None, "tensorboard": None, "summary": None},
        },
        run=str(tmp_path / "run"),
    )
    path = tmp_path / "lines.txt"
    path.write_text(WORDS[0], encoding="utf-8")
    for flags in ([], ["--average"]):
        assert (
            main(
                [
                    str(tmp_path / "run"),
                    "--text",
                    str(path),
                    "--output",
                    str(tmp_path / f"out{len(flags)}"),
                    "--device",
                    "cpu",
                    *flags,
                ]
            )
            == 0
        )
    plain, average = (lines_of(tmp_path / f"out{number}")[0]["score"] for number in (0, 1))
    assert plain != average


def test_a_generator_scores_at_the_temperature_that_it_samples_at(runs, scorer):
    instance = scorer("electra", by="corrupted")
    plain = instance(texts(WORDS[0]))[0].log_probs
    from dataclasses import replace as changed

    instance.component.config = changed(instance.component.config, temperature=0.5)
    ids = framed(instance, WORDS[0])
    copy = ids.clone()
    copy[0, 2] = instance.loaded.tokenizer.mask
    with torch.no_grad():
        logits = (
            instance.component.head(instance.component.network({"tokens": copy}, None).features)[
                0, 2
            ]
            / 0.5
        )
    assert (
        instance(texts(WORDS[0]))[0].log_probs[1]
        == pytest.approx(float(logits.log_softmax(0)[ids[0, 2]]), abs=1e-5)
        != plain[1]
    )
    instance.component.config = changed(instance.component.config, never_true=True)
    with pytest.raises(ConfigError, match="never_true or unchanged"):
        instance(texts(WORDS[0]))


def test_a_discriminator_of_the_chosen_positions_alone_cannot_score(scorer):
    with pytest.raises(ConfigError, match="criterion.replaced_token_detection.positions"):
        scorer("chosen", by="replaced_token_detection")(texts(WORDS[0]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--text", "nowhere.txt"], "nowhere.txt"),
        ([], "One of the arguments --text --pairs --dev is required"),
        (["--text", "{lines}", "--weights", "1:0:0.1"], "--weights: expected FROM:TO:STEP"),
        (["--text", "{lines}", "--set", "estimate"], "--set: expected KEY=VALUE"),
        (["--text", "{lines}", "--test", "{lines}"], "--test: belongs to --dev"),
        (["--pairs", "{lines}"], "lines.txt, line 1: not a JSON object"),
        (["--dev", "{lines}"], "lines.txt, line 1: not JSON"),
        (
            ["--text", "{lines}", "--tokens", "0"],
            "--tokens: expected a whole number of at least 1, got 0",
        ),
        (["--text", "{lines}", "--device", "gpu"], "'gpu' is not a device"),
    ],
)
def test_misuse_is_one_sentence(runs, lines, capsys, arguments, message):
    try:
        status = main([str(runs("masked_lm")), *(one.format(lines=lines) for one in arguments)])
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    assert (
        status == 2
        and message in captured.err
        and not captured.out
        and "Traceback" not in captured.err
    )


def test_a_run_that_is_none_is_refused(tmp_path, lines, capsys):
    assert main([str(tmp_path), "--text", str(lines)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_help_imports_no_torch():
    code = (
        "import sys, fwk.cli.score as s\ntry:\n s.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


# -- minimal pairs ---------------------------------------------------------------------------------


def pairs_file(tmp_path, rows) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_accuracy_counts_ties_as_half(tmp_path):
    rows = [
        {
            "sentence_good": f"good {i}",
            "sentence_bad": f"bad {i}",
            "UID": "a" if i < 3 else "b",
            "field": "f",
        }
        for i in range(4)
    ]
    pairs = read_pairs([pairs_file(tmp_path, rows)])
    about = accuracies(pairs, [(1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (-1.0, -2.0)])
    assert about["overall"] == {"accuracy": 2.5 / 4, "pairs": 4}
    assert about["paradigms"] == {
        "a": {"accuracy": 0.5, "pairs": 3},
        "b": {"accuracy": 1.0, "pairs": 1},
    }
    assert about["fields"] == {"f": {"accuracy": 2.5 / 4, "pairs": 4}}


def test_pairs_end_to_end(runs, tmp_path, capsys):
    rows = [
        {
            "sentence_good": "the dog sees a cat .",
            "sentence_bad": "dog the a sees cat .",
            "UID": "order",
            "field": "syntax",
        },
        {
            "sentence_good": "birds sing .",
            "sentence_bad": "birds sing .",
            "UID": "same",
            "field": "none",
        },
    ]
    output = tmp_path / "out.json"
    assert (
        main(
            [
                str(runs("masked_lm")),
                "--pairs",
                pairs_file(tmp_path, rows),
                "--output",
                str(output),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    about = json.loads(output.read_text(encoding="utf-8"))
    assert about["paradigms"]["same"]["accuracy"] == 0.5 and about["paradigms"]["order"][
        "accuracy"
    ] in (0.0, 1.0)
    assert about["items"][1]["good"] == about["items"][1]["bad"]
    assert "overall" in capsys.readouterr().out


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"sentence_good": "a", "sentence_bat": "b"},
            "expected text in 'sentence_bad'. Did you mean 'sentence_bat'",
        ),
        ({"sentence_good": 1, "sentence_bad": "b"}, "expected text in 'sentence_good'"),
        (["a", "b"], "expected a JSON object"),
        ({"sentence_good": "\ud800", "sentence_bad": "b"}, "is half a character"),
    ],
)
def test_a_wrong_pair_names_its_line(tmp_path, row, message):
    with pytest.raises(DataError, match="pairs.jsonl, line 2: ") as error:
        read_pairs([pairs_file(tmp_path, [{"sentence_good": "a", "sentence_bad": "b"}, row])])
    assert message in str(error.value)


def test_blimp_is_read(shared_data):
    pairs = read_pairs([str(shared_data / "blimp-100x67.jsonl.xz")])
    assert len(pairs) == 6700 and len({pair.paradigm for pair in pairs}) == 67
    about = accuracies(pairs, [(0.0, 0.0)] * len(pairs))
    assert about["overall"]["accuracy"] == 0.5 and all(
        one["pairs"] == 100 for one in about["paradigms"].values()
    )


# -- n-best lists ----------------------------------------------------------------------------------


LISTS = {
    "a1": {
        "hyp_1": {"score": -1.0, "text": "the cat sea"},
        "hyp_2": {"score": -1.5, "text": "the cat sees"},
        "ref": "the cat sees",
    },
    "a2": {
        "hyp_1": {"score": -2.0, "text": "a dog"},
        "hyp_2": {"score": -2.5, "text": "a dock"},
        "ref": "a dog",
    },
}


def lists_file(tmp_path, content, name="dev.json") -> str:
    path = tmp_path / name
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return str(path)


def test_the_weight_trades_the_recogniser_against_the_model(tmp_path):
    lists = nbest.read_lists(lists_file(tmp_path, LISTS))
    scores = {"the cat sea": -10.0, "the cat sees": -4.0, "a dog": -3.0, "a dock": -9.0}
    result = nbest.rerank(lists, None, scores, [0.05, 0.1, 0.5])
    # 0.5 apart for the recogniser and 6 for the model: from a weight of 1/12 on, the model decides
    assert [one["wer"] for one in result["sweep"]] == pytest.approx([1 / 5, 0, 0])
    assert result["weight"] == 0.1 and result["dev"]["choices"] == {
        "a1": "the cat sees",
        "a2": "a dog",
    }
    assert (result["dev"]["first"], result["dev"]["wer"], result["dev"]["oracle"]) == (
        pytest.approx(1 / 5),
        0,
        0,
    )
    assert nbest.choose(lists, scores, 0.0) == ["the cat sea", "a dog"]


def test_empty_hypotheses_and_references_are_read_where_asked_for(tmp_path):
    """An empty text has no log p and is chosen only alone; words at an empty reference are errors."""
    silence = {"hyp_1": {"score": 0.0, "text": ""}, "hyp_2": {"score": -1.0, "text": "a dog"}}
    content = {
        "a1": LISTS["a1"],
        "s1": {**silence, "ref": " "},
        "s2": {"hyp_1": {"score": -2.0, "text": " "}, "ref": "hm"},
    }
    file = lists_file(tmp_path, content)
    with pytest.raises(DataError, match=r"utterance 's1': ref is empty; .* \(or --lenient\)"):
        nbest.read_lists(file)
    lists = nbest.read_lists(file, lenient=True)
    assert "" not in [text.text for text in nbest.texts_of({file: lists})]
    scores = {"the cat sea": -10.0, "the cat sees": -4.0, "a dog": -3.0}
    assert nbest.choose(lists, scores, 0.5) == ["the cat sees", "a dog", ""]
    assert nbest.choose(lists, {**scores, "a dog": -math.inf}, 0.5)[1] == ""  # too long, say
    result = nbest.rerank(lists, None, scores, [0.5])["dev"]
    # of 4 words: 'the cat sea' is 1 error, 'hm' is missing, 'a dog' is too much
    assert [4 * result[rate] for rate in ("first", "wer", "oracle")] == [2, 3, 1]
    with pytest.raises(DataError, match="all references are empty"):
        nbest.error_rate(lists[1:2], ["x"])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"a2": {"hyp_1": {"score": -2.0, "text": " "}, "ref": "x"}},
            "line 13, utterance 'a2': hyp_1 is empty",
        ),
        (
            {"a2": {"hyp_1": {"score": "x", "text": "y"}, "ref": "x"}},
            "line 13, utterance 'a2': hyp_1 is not",
        ),
        (
            {"a2": {"hyp_2": {"score": -1.0, "text": "y"}, "ref": "x"}},
            "expected hyp_1 to hyp_n without a gap, got hyp_2",
        ),
        (
            {"a2": {"hyp_1": {"score": -1.0, "text": "y"}, "reff": "x"}},
            "unknown key 'reff', expected hyp_1, hyp_2, ... and ref. Did you mean 'ref'",
        ),
        (
            {"a2": {"hyp_1": {"score": -1.0, "text": "y"}}},
            "utterance 'a2': it has no 'ref', although others have one",
        ),
        ({"a2": [1]}, "expected an object with hyp_1"),
        ({"a2": {"hyp_1": {"score": 10**400, "text": "y"}, "ref": "x"}}, "hyp_1 is not"),
        ({"a2": {"hyp_1": {"score": 1, "text": "\ud800"}, "ref": "x"}}, "is half a character"),
        (
            {"a2": {"hyp_" + "1" * 5000: {"score": 1, "text": "y"}, "ref": "x"}},
            "unknown key 'hyp_111",
        ),
    ],
)
def test_a_wrong_list_names_its_line(tmp_path, change, message):
    with pytest.raises(DataError) as error:
        nbest.read_lists(lists_file(tmp_path, {**LISTS, **change}))
    assert message in str(error.value)


def test_one_utterance_twice_is_refused_and_large_files_are_read_in_one_go(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(
        '{"a": {"hyp_1": {"score": 1, "text": "x"}, "ref": "x"}, "a": {"hyp_1": {"score": 1, "text": "y"}, "ref": "x"}}'
    )
    with pytest.raises(DataError, match="the key 'a' occurs twice"):
        nbest.read_lists(str(path))
    many = {f"\u00fc{number}": LISTS["a1"] for number in range(3000)}
    for ascii_only in (True, False):
        path.write_text(json.dumps(many, indent=1, ensure_ascii=ascii_only), encoding="utf-8")
        assert [one.line for one in nbest.read_lists(str(path))][::1000] == [
            2,
            2 + 11_000,
            2 + 22_000,
        ]


def test_each_file_must_have_pairs(tmp_path):
    full = pairs_file(tmp_path, [{"sentence_good": "a", "sentence_bad": "b"}])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="empty.jsonl has no pairs"):
        read_pairs([full, str(tmp_path / "empty.jsonl")])


def test_dev_and_test_files_must_belong_together(runs, tmp_path, capsys):
    dev = lists_file(tmp_path, LISTS)
    longer = {
        "b1": {**{f"hyp_{i}": {"score": -i, "text": f"a {i}"} for i in range(1, 4)}, "ref": "a"}
    }
    for content, message in ((LISTS, "utterance 'a1' is in"), (longer, "holds 3-best lists")):
        test = lists_file(tmp_path, content, "test.json")
        assert main([str(runs("masked_lm")), "--dev", dev, "--test", test]) == 2
        assert message in capsys.readouterr().err
    assert main([str(runs("masked_lm")), "--dev", dev, dev, "--test", dev]) == 2
    assert "expected one for each" in capsys.readouterr().err
    without = lists_file(tmp_path, {"a1": {"hyp_1": {"score": 0.0, "text": "x"}}}, "bare.json")
    assert main([str(runs("masked_lm")), "--dev", without]) == 2
    assert "has no references" in capsys.readouterr().err


def test_lists_end_to_end(runs, tmp_path, capsys):
    test = {
        "b" + name[1:]: {key: value for key, value in entry.items() if key != "ref"}
        for name, entry in LISTS.items()
    }
    output = tmp_path / "out.json"
    assert (
        main(
            [
                str(runs("masked_lm")),
                "--dev",
                lists_file(tmp_path, LISTS),
                "--test",
                lists_file(tmp_path, test, "test.json"),
                "--output",
                str(output),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    portion = json.loads(output.read_text(encoding="utf-8"))["portions"][0]
    assert (
        len(portion["sweep"]) == 20
        and set(portion["test"]["choices"]) == {"b1", "b2"}
        and "wer" not in portion["test"]
    )
    assert "re-ranked" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("portion, first, oracle", [("clean", 6.12, 4.04), ("other", 16.76, 13.02)])
def test_the_published_lists_have_the_stated_error_rates(shared_data, portion, first, oracle):
    lists = nbest.read_lists(
        str(shared_data / f"librispeech-espnet100h-10best-dev-{portion}.am.json.xz")
    )
    rate = nbest.error_rate(lists, [one.hypotheses[0].text for one in lists])
    assert round(100 * rate, 2) == first
    assert round(100 * nbest.error_rate(lists, nbest.oracle(lists)), 2) == oracle


def test_lists_of_a_hundred_are_read(shared_data):
    lists = nbest.read_lists(
        str(shared_data / "librispeech-mlmscoring-100best-dev-clean-3utt.am.json.xz")
    )
    assert [len(one.hypotheses) for one in lists] == [100] * 3
    assert (
        round(100 * nbest.error_rate(lists, [one.hypotheses[0].text for one in lists]), 2) == 8.47
    )
    assert round(100 * nbest.error_rate(lists, nbest.oracle(lists)), 2) == 1.69


def test_compressed_lists_and_texts_are_read(runs, tmp_path):
    path = tmp_path / "dev.json.xz"
    path.write_bytes(lzma.compress(json.dumps(LISTS).encode()))
    assert nbest.read_lists(str(path))[1].hypotheses[1] == nbest.Hypothesis(-2.5, "a dock")
    text = tmp_path / "lines.txt.gz"
    text.write_bytes(gzip.compress("\n".join(WORDS).encode()))
    assert (
        main(
            [
                str(runs("masked_lm")),
                "--text",
                str(text),
                "--output",
                str(tmp_path / "out"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert len(lines_of(tmp_path / "out")) == len(WORDS)
