"""The GPU session without a GPU: order, limits, resumption, analysis of a profile, and the page that shows results."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from support.paths import ROOT

sys.path.insert(0, str(ROOT))  # `benchmarks` is no installed package

from benchmarks import common
from benchmarks.__main__ import programs
from benchmarks.gpu import outcomes, profile_update, session, session_report, wheels
from benchmarks.gpu.children import Background, Child, last_json
from benchmarks.gpu.plan import (
    DEVICE,
    METHODS,
    PIECES,
    PROFILE,
    RACE,
    SPEED,
    TESTS,
    Measurement,
    plan,
)
from benchmarks.speed.contenders import Measured, Stopwatch, flops

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
FACTS = {"device": "NVIDIA X1", "versions": {"python": "3.12.3", "torch": "2.11.0"}, "cuda": "13.0"}
RATES = {"bf16": 8e14, "fp16": 7e14, "fp32": 5e13, "copy": 4e12}


def measurement(name: str, piece: str = METHODS, **changes) -> Measurement:
    return Measurement(piece=piece, name=name, words=(name,), **changes)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A session with plenty of time whose programs are made up: name -> (exit status, what is printed)."""
    told = {"device": (0, json.dumps({**FACTS, **RATES}))}

    class Told:
        def __init__(self, command, environment, output, folder):
            self.name = command[-1]

        def finish(self, seconds):
            return told[self.name][0]

        def text(self):
            return told[self.name][1]

    monkeypatch.setattr(session, "Child", Told)
    monkeypatch.setattr(session, "monotonic", lambda: 0.0)

    def new(folder: str = "first", **changes) -> session.Session:
        fields = {"end": 500.0, "commit": "c0ffee", "work": tmp_path, "environment": {}}
        return session.Session(folder=tmp_path / folder, **{**fields, **changes})

    return SimpleNamespace(new=new, told=told, folder=tmp_path)


def written(made, folder: str = "first") -> dict:
    return json.loads((made.folder / folder / "session.json").read_text())


FIRST = measurement("device", DEVICE)


def test_what_was_measured_before_a_program_hangs_or_fails_is_kept(made):
    made.told |= {
        "good": (0, 'noise\n{"wall": 1}\n'),
        "hangs": (None, '{"done": 1}\n{"done": 2}\n{"do'),
        "fails": (1, "Traceback\nOutOfMemoryError: no memory"),
    }
    new = made.new()
    assert (
        session.run(new, [FIRST, *(measurement(name) for name in ("good", "hangs", "fails"))]) == 1
    )
    _, good, hangs, fails = written(made)["records"]
    assert session.is_done(good) and good["result"] == {"wall": 1} and "failure" not in good
    assert hangs["result"] == {"done": 2} and hangs["failure"] == "not ready in time"
    assert "OutOfMemoryError" in fails["failure"] and not session.is_done(fails)
    assert "OutOfMemoryError" in (made.folder / "first" / "log.txt").read_text()


def test_a_measurement_for_which_the_time_does_not_suffice_is_named_and_shorter_ones_still_run(
    made,
):
    made.told["short"] = (0, '{"wall": 1}')
    new = made.new(end=100.0)
    assert session.run(new, [FIRST, measurement("long", least=150.0), measurement("short")]) == 0
    assert [record["name"] for record in written(made)["records"]] == ["device", "short"]
    assert written(made)["left_out"] == ["methods: long"]


def test_a_resumed_session_does_what_is_missing_and_what_failed(made):
    made.told |= {"good": (0, '{"wall": 1}'), "fails": (1, "no"), "late": (0, '{"wall": 2}')}
    measurements = [FIRST, measurement("good"), measurement("fails"), measurement("late")]
    session.run(made.new(), measurements[:3])
    made.told |= {"good": (0, '{"wall": 9}'), "fails": (0, '{"wall": 3}')}
    before = made.folder / "first" / "session.json"
    assert session.run(made.new("second"), measurements, before) == 0
    walls = {r["name"]: r["result"].get("wall") for r in written(made, "second")["records"]}
    assert walls == {"device": None, "good": 1, "fails": 3, "late": 2}


@pytest.mark.parametrize("what", ["commit", "device"])
def test_numbers_of_another_commit_or_device_are_not_taken_over(made, what, capsys):
    made.told["good"] = (0, '{"wall": 1}')
    measurements = [FIRST, measurement("good")]
    session.run(made.new(), measurements)
    made.told["good"] = (0, '{"wall": 9}')
    if what == "device":
        made.told["device"] = (0, json.dumps({**FACTS, **RATES, "device": "NVIDIA X2"}))
    new = made.new("second", commit="c0ffee" if what == "device" else "decaf")
    session.run(new, measurements, made.folder / "first" / "session.json")
    assert new.records[-1]["result"] == {"wall": 9}
    assert f"has another {what}" in capsys.readouterr().out


def test_without_a_device_the_session_ends_at_once(made, capsys):
    made.told["device"] = (1, "RuntimeError: No CUDA GPUs are available")
    assert session.run(made.new(), [FIRST, measurement("never")]) == 1
    assert "cannot be measured: RuntimeError: No CUDA GPUs" in capsys.readouterr().out


def test_a_failed_test_is_a_result_that_fails_the_session(made):
    lines = [
        {"test": "a", "outcome": "passed", "seconds": 1},
        {"test": "b", "outcome": "failed", "seconds": 1, "message": "1 != 2"},
    ]
    made.told["tests"] = (1, "1 failed, 1 passed")
    new = made.new()
    (new.folder / "tests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert session.run(new, [FIRST, measurement("tests", TESTS)]) == 1
    record = new.records[-1]
    assert session.is_done(record) and record["result"]["failures"] == {"b": "1 != 2"}
    assert (record["result"]["passed"], record["result"]["failed"]) == (1, 1)


def test_outcomes_of_tests_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setenv(outcomes.VARIABLE, str(tmp_path / "tests.jsonl"))
    for when, outcome in (
        ("setup", "passed"),
        ("call", "passed"),
        ("teardown", "passed"),
        ("setup", "skipped"),
    ):
        report = SimpleNamespace(when=when, outcome=outcome, nodeid="a", duration=1.0, failed=False)
        outcomes.Outcomes().pytest_runtest_logreport(report)
    summary = outcomes.summary(tmp_path / "tests.jsonl")
    assert summary == {"passed": 1, "failed": 0, "skipped": 1, "failures": {}}


# -- programs --------------------------------------------------------------------------------------------------------


def test_a_program_is_ended_at_its_limit_and_its_output_kept(tmp_path):
    child = Child(SLEEPER, {}, tmp_path / "output.txt", tmp_path)
    assert child.finish(0.0) is None and child.process.poll() is not None
    assert child.text() == ""


def test_programs_in_the_background_end_with_the_wait_for_them(tmp_path):
    quick = [sys.executable, "-c", "print(1)"]
    assert Background([quick] * 3, {}, tmp_path, tmp_path).finish(60.0)
    assert [(tmp_path / f"background-{n}.txt").read_text() for n in (1, 2, 3)] == ["1\n"] * 3
    background = Background([SLEEPER] * 3, {}, tmp_path, tmp_path)
    assert not background.finish(0.0)
    assert all(child.process.poll() is not None for child in background.running)


def test_the_result_is_the_last_whole_line_of_json():
    assert last_json('{"a": 1}\nwarning\n{"a": 2}\n{"a": ') == {"a": 2}
    assert last_json("no result") is None


@pytest.mark.parametrize("quick", [False, True])
def test_the_plan_runs_programs_that_exist_in_the_order_of_the_pieces(quick):
    measurements = plan(quick, "cpu")
    keys = [one.key for one in measurements]
    assert len(set(keys)) == len(keys)
    pieces = [one.piece for one in measurements]
    assert sorted(pieces, key=PIECES.index) == pieces and set(pieces) == set(PIECES)
    for one in measurements:
        assert one.words[0] == "pytest" or one.words[1] in programs()
        assert not one.compiles or "--compile" in one.compiles


def test_blocks_of_updates_are_timed_as_one_after_the_warm_up():
    watch, done = Stopwatch(warm=3, updates=4, device="cpu", block=2), 0
    with pytest.raises(Measured):
        while True:
            done += 1
            watch.lap()
    assert done == 7 and watch.result()["laps"] == 2


def test_only_wheels_that_this_python_lacks_are_installed(tmp_path):
    for name in ("pluggy-1.7.0-py3-none-any.whl", "no_such_package-1.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    assert [path.name for path in wheels.missing_wheels(tmp_path)] == [
        "no_such_package-1.0-py3-none-any.whl"
    ]


@pytest.mark.slow
def test_the_checkout_is_provided_with_the_entry_points_of_its_plugins(tmp_path):
    (tmp_path / "other-1.0.dist-info").mkdir()
    wheels.provide_project(tmp_path)
    wheels.provide_project(tmp_path)  # a second session finds it there
    points = next(tmp_path.glob("fwk-*.dist-info")) / "entry_points.txt"
    assert "electra = fwk_plugins.electra" in points.read_text()
    assert (tmp_path / "fwk").resolve() == ROOT / "fwk"
    assert (tmp_path / "fwk_plugins").resolve() == ROOT / "plugins"


# -- a profile -------------------------------------------------------------------------------------------------------


def event(name: str, category: str, start: float, length: float) -> dict:
    return {"ph": "X", "name": name, "cat": category, "ts": start, "dur": length}


TRACE = [
    event(profile_update.READ, "user_annotation", 100, 20),
    event(profile_update.STEP, "user_annotation", 120, 80),
    event(profile_update.STEP, "gpu_user_annotation", 130, 200),
    event("cudaStreamSynchronize", "cuda_runtime", 90, 5),  # before the update
    event("cudaStreamSynchronize", "cuda_runtime", 150, 5),
    event("cudaMemcpyAsync", "cuda_runtime", 140, 5),
    event("cudaLaunchKernel", "cuda_runtime", 125, 1),
    event("cudaDeviceSynchronize", "cuda_runtime", 205, 5),  # the profiler's
    event("gemm", "kernel", 130, 40),
    event("softmax", "kernel", 150, 50),  # of another stream, while gemm runs
    event("gemm", "kernel", 230, 10),
    event("Memcpy DtoH (Device -> Pageable)", "gpu_memcpy", 245, 5),
    {"ph": "M", "name": "process_name", "ts": 0},
]


def test_a_profile_tells_gaps_and_the_waits_of_the_update_alone():
    found = profile_update.analyse(profile_update.spans_of({"traceEvents": TRACE}))
    assert found["host_ms"] == pytest.approx(0.1) and found["read_ms"] == pytest.approx(0.02)
    assert found["waits"] == 1 and found["waits_by_call"] == {"cudaStreamSynchronize": 1}
    assert found["launches"] == 1 and found["kernel_calls"] == 3
    assert found["gaps"] == 2 and found["longest_gaps"][0] == {
        "us": 30.0,
        "after": "softmax",
        "before": "gemm",
    }
    assert found["device_ms"] == pytest.approx(0.12) and found["busy_ms"] == pytest.approx(0.085)
    assert found["copies"] == {"Memcpy DtoH": 1}
    first, second, _ = found["kernels"]
    assert first["kernel"] == "gemm" and first["calls"] == 2 and first["ms"] == pytest.approx(0.05)
    assert second["share"] == pytest.approx(50 / 105)


def test_waits_are_counted_by_line():
    message = "called a synchronizing CUDA operation"
    caught = [
        SimpleNamespace(message=message, filename=str(ROOT / "fwk/engine/trainer.py"), lineno=7),
        SimpleNamespace(message=message, filename=str(ROOT / "fwk/engine/trainer.py"), lineno=7),
        SimpleNamespace(
            message=message, filename="/x/site-packages/torch/optim/adamw.py", lineno=3
        ),
        SimpleNamespace(message="deprecated", filename="/x/y.py", lineno=1),
    ]
    found = profile_update.count_waits(caught)
    assert found == {"fwk/engine/trainer.py:7": 2, "torch/optim/adamw.py:3": 1}


# -- the page --------------------------------------------------------------------------------------------------------


def record(
    piece: str, result: dict | None, facts: dict | None = None, status: int | None = 0, **more
) -> dict:
    fields = {"piece": piece, "name": "n", "seconds": 1.0, "status": status}
    return {**fields, "facts": facts or {}, "result": result, **more}


def speed(contender: str, wall: float) -> dict:
    shape = {"layers": 12, "width": 768, "length": 128, "batch": 256, "full": True}
    facts = {"shape": "base, 128", "contender": contender, "compiled": True, "precision": "bf16"}
    return record(SPEED, {"wall": wall, "peak_bytes": 2e10}, {**facts, **shape})


SESSION = {
    "started": "2026-12-01T10:00:00",
    "commit": "c0ffee",
    "quick": False,
    "records": [
        record(DEVICE, {**FACTS, **RATES}),
        record(TESTS, {"passed": 9, "failed": 1, "failures": {"tests/gpu/a.py::b": "x"}}, status=1),
        speed("fwk", 0.05),
        speed("hf", 0.2),
        record(
            METHODS,
            {"wall": 0.3, "tokens_per_second": 1e6},
            {"objective": "two_views", "compiled": False},
        ),
        record(
            METHODS,
            {"wall": 0.2, "tokens_per_second": 1e6},
            {"objective": "one_view", "compiled": False},
        ),
        record(METHODS, {"ratio": 16.0, "passes": 20}),
        record(
            PROFILE,
            {
                **profile_update.analyse(profile_update.spans_of({"traceEvents": TRACE})),
                "lines": {"fwk/engine/trainer.py:7": 2},
            },
            {"objective": "electra_small"},
        ),
        record(
            RACE,
            {
                "minutes": 1.0,
                "objectives": {
                    "ELECTRA": {
                        "updates": 1000,
                        "tokens": 5_000_000,
                        "valid": {"loss": 9.0, "auc": 0.9},
                        "blimp": {"corrupted": 0.61},
                    }
                },
            },
        ),
        record(SPEED, None, status=1, failure="OutOfMemoryError"),
    ],
    "left_out": ["race: r"],
}


def test_the_page_says_so_where_there_is_no_session_yet(tmp_path):
    assert session_report.section(session_report.sessions(tmp_path)) == session_report.NONE_YET


def test_the_page_shows_the_latest_session_of_each_device(tmp_path):
    (tmp_path / "session.json").write_text(json.dumps(SESSION))
    results = tmp_path / "results"
    added = session_report.add(tmp_path / "session.json", results)
    assert added.name == "2026-12-01T100000_NVIDIA-X1_c0ffee.json"
    older = {**SESSION, "started": "2026-11-01T10:00:00", "commit": "0ld"}
    (tmp_path / "session.json").write_text(json.dumps(older))
    session_report.add(tmp_path / "session.json", results)

    text = session_report.section(session_report.sessions(results))
    assert text.count("### NVIDIA X1") == 1 and "0ld" not in text
    rate = flops(12, 768, 128, 256, 20) / 0.05
    ours = next(
        line for line in text.splitlines() if line.startswith("| base, 128 | `fwk`, compiled")
    )
    shown = ["50.0", "655", f"{rate / 1e12:.0f}", f"{rate / 8e14:.2f}", "20.0", "4.00"]
    assert ours.split(" | ")[2:] == [*shown[:-1], f"{shown[-1]} |"]
    for part in (
        "9 passed, 1 failed",
        "- `tests/gpu/a.py::b`",
        "| Semantic-Augment ÷ one view | 1.500 |",
        "| scoring in one pass ÷ 20 passes | 0.062 |",
        "waits for the device 1 times. It waits at `fwk/engine/trainer.py:7` (2).",
        "| ELECTRA | 1,000 | 5 | 9.000 | auc 0.900 | 61.0 (corrupted) |",
        "Left out for time: race: r.",
        "Failed: speed: n (OutOfMemoryError).",
    ):
        assert part in text, part


def test_a_quick_session_or_one_without_a_device_is_not_kept(tmp_path):
    for session_of in ({**SESSION, "quick": True}, {**SESSION, "records": []}):
        (tmp_path / "session.json").write_text(json.dumps(session_of))
        with pytest.raises(ValueError, match="measured no device"):
            session_report.add(tmp_path / "session.json", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_the_page_is_made_from_the_sessions_that_are_kept():
    text = session_report.section(session_report.sessions())
    section = f"<!-- {session_report.SECTION} -->\n{text}\n<!-- end -->"
    assert section in common.PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_everything_runs_with_toy_shapes_on_a_cpu(tmp_path):
    """HF's trainer needs accelerate, which the tests do not install: that measurement alone may fail."""
    session.main(["--quick", "--out", str(tmp_path), "--minutes", "30"])
    outcome = json.loads((tmp_path / "session.json").read_text())
    failed = [record for record in outcome["records"] if session.has_failed(record)]
    assert all(
        ", hf, " in record["name"] and "accelerate" in record["failure"] for record in failed
    )
    assert len(outcome["records"]) == len(plan(True, "cpu")) and not outcome["left_out"]
    assert outcome["records"][1]["result"]["passed"] > 0
