"""`fwk-evaluate`: the metrics of a checkpoint on a split of its task, as JSON; or its predictions for raw text."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from fwk.cli.common import command, disk_errors, json_line
from fwk.cli.messages import first_rank
from fwk.cli.parsing import Append, Parser, add_model, chosen_checkpoint
from fwk.contracts.options import Plain
from fwk.contracts.plain import PlainDict
from fwk.errors import ConfigError, UserError
from fwk.files import expand_user, user_path
from fwk.files.outputs import OutputFile, check_output, open_output

NAME = "fwk-evaluate"
USAGE = "fwk-evaluate [options] RUN [key.path=value]..."
EPILOG = """\
examples:
  fwk-evaluate runs/parser
  fwk-evaluate runs/parser --split test --predictions parsed.conllu
  fwk-evaluate runs/bert task.valid=held-out.txt
  fwk-evaluate runs/parser --text raw.txt --predictions parsed.jsonl
  fwk-evaluate runs/pairs --text pairs.tsv
  fwk-evaluate runs/bert --task sts --criterion similarity task.data=STS-B/dev.tsv

Settings such as task.valid=..., train.batch=N and train.device=... override the run's config. Metrics go to standard
output as one JSON object. With --text, the predictions do: one JSON object for each line that is not empty, or for
each row of a table whose columns are the texts that the task reads; a list of choices is JSON in a cell.
Exit status: 0 done, 2 the input was wrong, 1 something else failed."""
WINDOW = 1024  # examples that are read ahead, so that those of similar length share a batch


def parser() -> Parser:
    """Return the grammar of the command line."""
    p = Parser(
        NAME,
        words="overrides",
        usage=USAGE,
        description="Evaluate a checkpoint on a split of its task.",
        epilog=EPILOG,
    )
    add_model(p)
    _add_judges(p)
    p.add_argument("--split", metavar="NAME", help="the split to evaluate on (default: valid)")
    p.add_argument(
        "--text",
        metavar="FILE",
        type=expand_user,
        help="instead of a split: raw text, one example per line (.gz, .xz, .zst; - for standard input), or a table "
        "(.tsv, .csv, .jsonl) with a column for each text of an example",
    )
    p.add_argument(
        "--predictions",
        metavar="FILE",
        type=user_path,
        help="write the predictions to this file, in the task's format (with --text: JSON lines)",
    )
    p.add_argument(
        "--targets",
        metavar="FILE",
        type=user_path,
        help="write what the model computes for each example (logits, numbers) to this file, for other runs",
    )
    p.add_argument(
        "--output", metavar="FILE", type=user_path, help="write the metrics to this file too"
    )
    p.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return p


def _add_judges(p: Parser) -> None:
    p.add_argument(
        "--task",
        metavar="NAME",
        help="judge the weights by another task, such as sts; RUN may be anything that model.from names",
    )
    p.add_argument(
        "--criterion",
        metavar="NAME",
        action=Append,
        default=[],
        help="judge them by this criterion, such as similarity; repeatable",
    )


@command(NAME, parser)
@disk_errors()
def main(arguments: argparse.Namespace) -> int:
    """Evaluate or predict. Return 0: done, 1: something failed, 2: the input was wrong."""
    if arguments.text is None:
        _evaluate(arguments)
    else:
        _predict(arguments)
    return 0


def _evaluate(arguments: argparse.Namespace) -> None:
    """Print the metrics of a split, and write what was asked for."""
    with ExitStack() as outputs:
        metrics_file = _open_metrics(arguments, outputs)
        is_judged = arguments.task or arguments.criterion
        result = _judged(arguments) if is_judged else _evaluated(arguments)
        if not first_rank():
            return
        text = json.dumps(result, indent=1)
        if metrics_file is not None:
            metrics_file.write(f"{text}\n".encode())
        print(text)


def _evaluated(arguments: argparse.Namespace) -> PlainDict:
    """Return the metrics of a checkpoint on its own task."""
    from fwk.runs.evaluating import evaluate_run

    return evaluate_run(
        arguments.model,
        arguments.split or "valid",
        overrides=arguments.overrides,
        user_dirs=tuple(arguments.user_dir),
        average=arguments.average,
        checkpoint=chosen_checkpoint(arguments),
        predictions=arguments.predictions,
        targets=arguments.targets,
        metrics=arguments.output,
        overwrite=arguments.overwrite,
    )


def _judged(arguments: argparse.Namespace) -> PlainDict:
    """Return the metrics of weights on another task. Raises ConfigError for flags that belong to a run's own."""
    for flag in ("predictions", "targets", "best", "average"):
        if getattr(arguments, flag):
            raise ConfigError(
                f"--{flag}",
                "belongs to the evaluation of a run on its own task, without --task and --criterion",
            )
    from fwk.runs.judging import judge_weights

    return judge_weights(
        arguments.model,
        arguments.task,
        arguments.criterion,
        arguments.split or "valid",
        overrides=arguments.overrides,
        user_dirs=tuple(arguments.user_dir),
    )


def _open_metrics(arguments: argparse.Namespace, outputs: ExitStack) -> OutputFile | None:
    """Return the file of --output, which one rank writes. Raises UserError for a file that cannot be written."""
    if arguments.predictions:
        # before the work instead of after it; the sources of the split have files of their own
        check_output("--predictions", arguments.predictions, [], overwrite=True)
    if arguments.targets:
        check_output("--targets", arguments.targets, [], overwrite=True)
    if not arguments.output or not first_rank():
        return None
    reads = [arguments.predictions] if arguments.predictions else []
    output = open_output("--output", arguments.output, reads=reads, overwrite=arguments.overwrite)
    return outputs.enter_context(output)


def _predict(arguments: argparse.Namespace) -> None:
    """Print or write the predictions for raw text."""
    _refuse_options_of_splits(arguments)
    if not arguments.predictions:
        for prediction in _predictions(arguments):
            print(json_line(prediction))
        return
    reads = [Path(arguments.text)]
    with open_output(
        "--predictions", arguments.predictions, reads=reads, overwrite=arguments.overwrite
    ) as output:
        output.write("".join(_json_lines(_predictions(arguments))).encode())


def _json_lines(predictions: Iterator[Plain]) -> Iterator[str]:
    for prediction in predictions:
        yield json.dumps(prediction, ensure_ascii=False) + "\n"


def _refuse_options_of_splits(arguments: argparse.Namespace) -> None:
    keys = [override.split("=")[0] for override in arguments.overrides]
    flags = [
        flag
        for flag in ("--split", "--output", "--targets", "--task", "--criterion")
        if getattr(arguments, flag[2:])
    ]
    for key in [*flags, *keys]:
        raise ConfigError(
            key, "belongs to the evaluation of a split, and cannot be used with --text"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--text is read by one process only; start the command without torchrun")


def _predictions(arguments: argparse.Namespace) -> Iterator[Plain]:
    """Yield the prediction for each line of a file that is not empty, or for each row of a table."""
    from fwk.data.raw_texts import read_raw_texts
    from fwk.data.text import path_not_found
    from fwk.engine.predict import predict_texts
    from fwk.runs.loaded import load

    file = arguments.text
    if file != "-" and not os.path.exists(file):
        raise path_not_found(file)
    loaded = load(
        arguments.model,
        user_dirs=tuple(arguments.user_dir),
        average=arguments.average or None,
        checkpoint=chosen_checkpoint(arguments),
    )
    examples = read_raw_texts(file, loaded.task.text_names())
    while window := list(islice(examples, WINDOW)):
        texts, places = zip(*window)
        yield from predict_texts(loaded.module, loaded.task, texts, places)


if __name__ == "__main__":
    sys.exit(main())
