"""Standard error of a command: the log of `fwk` and warnings, each line once."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings

import pytest

from fwk.cli.common import json_line, run_command

logger = logging.getLogger("fwk.x")


def run(body) -> int:
    """Run a body as the command `fwk-x`."""
    return run_command("fwk-x", lambda argv: body() or 0, [])


def log_everything() -> None:
    logger.debug("a detail")
    logger.info("a note of %d words", 4)
    logger.warning("a warning")
    logger.error("an error")


def test_notes_warnings_and_errors_are_lines_on_stderr(capsys):
    assert run(log_everything) == 0
    out, err = capsys.readouterr()
    assert err == "fwk: a note of 4 words\nfwk: a warning\nfwk: an error\n" and out == ""


def test_a_handler_of_the_root_logger_prints_nothing_again(capsys):
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        run(log_everything)
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err.count("a warning") == 1


def test_the_logger_is_afterwards_as_it_was_before(capsys):
    before = [logging.getLogger("fwk").__dict__[key] for key in ("level", "propagate")]
    handlers = list(logging.getLogger("fwk").handlers)
    run(log_everything)
    assert [logging.getLogger("fwk").__dict__[key] for key in ("level", "propagate")] == before
    assert logging.getLogger("fwk").handlers == handlers


def test_ranks_other_than_the_first_print_errors_only(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run(log_everything)
    assert capsys.readouterr().err == "fwk: an error\n"


def test_forked_processes_print_errors_only(capfd):
    def log_in_a_fork() -> None:
        logger.warning("from the parent")
        child = os.fork()
        if child == 0:
            log_everything()
            os._exit(0)
        os.waitpid(child, 0)

    run(log_in_a_fork)
    assert capfd.readouterr().err == "fwk: from the parent\nfwk: an error\n"


def test_workers_of_the_loader_log_nothing_where_no_handler_was_inherited(capfd):
    """As in a spawned process, where Python would print warnings by its handler of last resort."""
    from fwk.engine.feed.workers import WorkerStart

    child = os.fork()
    if child == 0:
        WorkerStart(())(0)
        logger.warning("a warning")
        os._exit(0)
    os.waitpid(child, 0)
    assert capfd.readouterr().err == ""


def warn_from(file: str, category: type[Warning]) -> None:
    warnings.warn_explicit("look here", category, file, 7)


def test_a_warning_of_fwk_is_one_line_of_the_command(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run(lambda: warn_from("/somewhere/fwk/x.py", UserWarning))
    assert capsys.readouterr().err == "fwk-x: warning: look here\n"


@pytest.mark.parametrize(
    ("file", "category"),
    [("/somewhere/torch/x.py", UserWarning), ("/somewhere/fwk/x.py", DeprecationWarning)],
)
def test_other_warnings_keep_the_form_that_python_gives_them(file, category, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *arguments: print("shown by Python", file=sys.stderr)
        run(lambda: warn_from(file, category))
    assert capsys.readouterr().err == "shown by Python\n"


def test_a_warning_of_fwk_is_printed_by_the_first_rank_only(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run(lambda: warn_from("/somewhere/fwk/x.py", UserWarning))
    assert capsys.readouterr().err == ""


def test_an_interrupt_may_carry_advice(capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt("Run the same command again to continue")

    assert run(interrupted) == 130
    assert capsys.readouterr().err == (
        "fwk-x: interrupted. Run the same command again to continue\n"
    )


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", '"né"'), ("latin-1", '"n\\u00e9"')])
def test_json_on_a_standard_output_without_utf_8_is_escaped_not_replaced(
    encoding, printed, monkeypatch
):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert run_command("fwk-score", lambda _: print(json_line("né")) or 0, []) == 0
    assert stream.buffer.getvalue().decode("utf-8").strip() == printed
