import shlex
from pathlib import Path

import pytest

from fwk.reporting.summary import masked_lm_loss, readable, screen, sentence

FOUND = {
    "masked_lm": 4.67, "unigram": 6.44, "bigram": 5.02,
    "sentences": [{
        "text": "return the [1] of the array along the [2] axis ...",
        "blanks": [
            {"original": "shape", "guesses": [["shape", 0.31], ["size", 0.22], ["-s", 0.1]]},
            {"original": "given", "guesses": [["first", 0.2], ["given", 0.11], ["last", 0.1]]},
        ],
    }],
}


class Tokenizer:
    kind, mask, words = "sentencepiece", 0, ("[MASK]", "▁the", "▁shape", "s", ".", "▁")

    def token(self, index):
        return self.words[index]

    def decode(self, ids):
        return "".join(self.words[i] for i in ids).replace("▁", " ").strip()


def test_the_screen_compares_with_unigram_and_bigram_and_says_what_next():
    lines = screen(FOUND, Path("runs/demo"), 1500, 100)
    text = "\n".join(lines)
    assert len(lines) <= 24  # one screen
    for part in ("unigram    6.440", "bigram     5.020", "this run   4.670", "1.77 below the unigram loss",
                 "+ [1] shape  shape 31%, size 22%", "  [2] given  first 20%", "runs/demo"):
        assert part in text


def test_the_commands_survive_a_folder_with_spaces():
    lines = screen(FOUND, Path("my runs/a"), 1500, 100)
    commands = [line.split("   #")[0] for line in lines if line.startswith("  fwk-train")]
    assert shlex.split(commands[0]) == [
        "fwk-train", "--config", "my runs/a/config.yaml", "--run", "my runs/a", "train.updates=3000"]
    assert "my runs/a-mine" in shlex.split(commands[1])


@pytest.mark.parametrize("width", [1, 20, 40, 100])
def test_the_screen_fits_but_for_paths_and_commands(width):
    lines = screen(FOUND, Path("r"), None, width)
    prose = [line for line in lines if not line.startswith(("  fwk-train", "  tensorboard", "The run"))]
    assert max(map(len, prose)) <= max(20, width)


def test_a_run_without_a_loss_or_sentences_still_has_a_screen():
    assert screen({**FOUND, "masked_lm": None, "sentences": []}, Path("r"), None, 80)


def test_blanks_are_numbered_in_the_text():
    assert sentence([1, 0, 3, 0, 4], Tokenizer()) == "the [1] s [2] ."
    assert sentence([0], Tokenizer()) == "[1]"


def test_tokens_are_shown_without_the_marks_of_their_library():
    assert [readable(Tokenizer(), index) for index in (1, 3, 4, 5)] == ["the", "-s", ".", "' '"]


def test_the_loss_is_the_criterions_own_masked_lm():
    metrics = {"loss": 9.0, "tied/masked_lm": 4.5, "tied/masked_lm_a": 4.4}
    assert masked_lm_loss(metrics, "tied") == 4.5
    assert masked_lm_loss(metrics, "other") is None
