"""The faults. Each is a function of one side (`lab.Fwk` or `lab.HF`): how it is provoked, and the expected outcome.

The same function runs on both sides. Its expectations are checked for `fwk` only; for the other side the outcome is
recorded. An expected message is a regular expression for the one line that the user sees.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from support.paths import ROOT

from faults.lab import Fault, Side, digest, make_store, prose, tokens

CASES: dict[str, Fault] = {}
group = ""


def fault(title: str, **options) -> Callable:
    """Register a function in the matrix.

    options: ranks, data (made | long | store | text | digits | reached), words for every start, hf=False with the
    reason `why` where the fault has no counterpart in the other trainer.
    """

    def enter(function: Callable[[Side], None]) -> Callable[[Side], None]:
        CASES[function.__name__] = Fault(function.__name__, group, title, function, **options)
        return function

    return enter


def inside(act: str, place: str = "update", at: int | None = 6, **how) -> dict:
    """Return a fault inside the process, see `inside/acts.py`."""
    return {"act": act, "place": place, **({"at": at} if at is not None else {}), **how}


def cut(path: Path, keep: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


def flip(path: Path, where: float = 0.75) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 0x20
    path.write_bytes(content)


PASSED = r"skipped a checkpoint: "

# -- checkpoints -----------------------------------------------------------------------------------------------------

group = "Checkpoints: the newest is damaged, an older one is good"


@fault("weights cut in half")
def weights_cut(s):
    s.interrupted()
    cut(s.newest("weights"))
    s.goes_on(PASSED + r".*model.safetensors has \d+ bytes, expected \d+")


@fault("weights missing")
def weights_missing(s):
    s.interrupted()
    s.newest("weights").unlink()
    s.goes_on(PASSED + ".*lacks model.safetensors")


@fault("one bit of the weights flipped")
def weights_flipped(s):
    s.interrupted()
    flip(s.newest("weights"))
    s.goes_on(PASSED + ".*model.safetensors was changed")


@fault("one bit of the optimizer's state flipped")
def optimizer_flipped(s):
    s.interrupted()
    flip(s.newest("optimizer"))
    s.goes_on(PASSED + ".*optimizer.safetensors was changed")


@fault("the optimizer's file empty, as after a power cut")
def optimizer_empty(s):
    s.interrupted()
    cut(s.newest("optimizer"), 0)
    s.goes_on(PASSED + ".*optimizer.safetensors has 0 bytes")


@fault("one bit of the state flipped: update 8 reads 9")
def state_flipped(s):
    s.interrupted()
    state = s.newest("state")
    before = state.read_text()
    state.write_text(before.replace(f'"{s.step_key}": 8', f'"{s.step_key}": 9', 1))
    assert state.read_text() != before
    s.goes_on(PASSED + ".*state.json was changed")


@fault("state file missing")
def state_missing(s):
    s.interrupted()
    s.newest("state").unlink()
    s.goes_on(PASSED + ".*lacks state.json")


@fault("one bit of the manifest flipped", hf=False, why="its checkpoints have no manifest")
def manifest_flipped(s):
    s.interrupted()
    flip(s.newest("state").with_name("manifest.json"), 0.5)
    s.goes_on(PASSED + ".*")


@fault("half of a checkpoint with a higher number, as a copy that broke off leaves it")
def half_a_checkpoint(s):
    s.interrupted()
    intact = s.newest("state").parent
    half = intact.with_name(intact.name[:-2] + "12" if s.name == "fwk" else "checkpoint-12")
    half.mkdir()
    shutil.copy(intact / s.files["weights"], half)
    s.goes_on(PASSED + ".*manifest.json cannot be read")


@fault("the link `latest` leads nowhere", hf=False, why="it has no such link")
def latest_dangling(s):
    s.interrupted()
    latest = s.run / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to("update-000000999")
    s.goes_on()


@fault("weights that are NaN in a checkpoint whose hashes are right")
def weights_nan(s):
    s.interrupted()
    path = s.newest("weights")
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32("nan").tobytes()
    path.write_bytes(content)
    manifest = path.with_name("manifest.json")
    if manifest.is_file():
        manifest_content = json.loads(manifest.read_text())
        manifest_content["files"][path.name]["sha256"] = digest(path)
        manifest.write_text(json.dumps(manifest_content))
    s.answered(s.start(), r"update-000000008.*(not finite|NaN|nan)", counts_as="recovered")


group = "Checkpoints: none can be used"


@fault("every checkpoint damaged")
def all_damaged(s):
    s.interrupted()
    for checkpoint in s.checkpoints():
        cut(checkpoint / s.files["weights"])
    s.refuses("no checkpoint of run is intact: .*; ", status=2, unchanged=True)


@fault("written by a newer version")
def newer_version(s):
    s.interrupted()
    for checkpoint in s.checkpoints():
        path = checkpoint / ("manifest.json" if s.name == "fwk" else "config.json")
        content = json.loads(path.read_text())
        content["format" if s.name == "fwk" else "transformers_version"] = (
            99 if s.name == "fwk" else "99.0.0"
        )
        path.write_text(json.dumps(content))
    s.refuses(
        "has format 99, but this version of fwk reads formats up to", status=2, unchanged=True
    )


@fault("the command now asks for another learning rate")
def other_rate(s):
    s.interrupted()
    s.start_words = ("optimizer.lr=2e-3",)
    s.refuses(
        "holds a run with another config .*optimizer.lr was 0.001, is now 0.002",
        status=2,
        unchanged=True,
    )


@fault("the command now asks for another width of the model")
def other_width(s):
    s.interrupted()
    s.start_words = ("model.width=32",)
    s.refuses(
        "holds a run with another config .*model.width was 16, is now 32", status=2, unchanged=True
    )


@fault("the command now asks for another seed")
def other_seed(s):
    s.interrupted()
    s.start_words = ("seed=7",)
    s.refuses("holds a run with another config .*seed was 1, is now 7", status=2, unchanged=True)


@fault(
    "the run's config file is damaged",
    hf=False,
    why="it keeps its arguments as a pickle that is not read again",
)
def config_damaged(s):
    s.interrupted()
    cut(s.run / "config.yaml", 0.6)
    s.refuses("config.yaml", status=2, unchanged=True)


@fault(
    "the objective's plugin is no longer there",
    hf=False,
    why="the model's class is imported by the user's own program",
)
def plugin_gone(s):
    s.fresh()
    shutil.copytree(ROOT / "user_dir_examples" / "focal_mlm", s.folder / "objective")
    s.start_words = ("--user-dir=objective", "--criterion=focal_mlm")
    s.dies(fault=inside("signal", name="SIGKILL", at=10))
    shutil.rmtree(s.folder / "objective")
    s.start_words = ("--criterion=focal_mlm",)
    s.refuses("focal_mlm", status=2, unchanged=True)


# -- death -----------------------------------------------------------------------------------------------------------

group = "Killed, and started again"


@fault("SIGKILL between two updates")
def killed(s):
    s.fresh()
    s.dies(fault=inside("signal", name="SIGKILL", at=11))
    s.goes_on()


@fault("SIGKILL in the middle of a pass over the data", data="long")
def killed_in_a_pass(s):
    s.fresh()
    s.dies(fault=inside("signal", name="SIGKILL", at=7))
    s.goes_on()


@fault("SIGKILL inside a save, when one file is written")
def killed_after_one_file(s):
    s.fresh()
    s.dies(fault=inside("kill_when_written", "save", 2, pattern=s.saving, files=1))
    s.goes_on()


@fault("SIGKILL inside a save, when three files are written")
def killed_after_three_files(s):
    s.fresh()
    s.dies(fault=inside("kill_when_written", "save", 2, pattern=s.saving, files=3))
    s.goes_on()


@fault("SIGKILL inside three saves, at random moments")
def killed_at_random(s):
    s.fresh()
    moments = np.random.default_rng()
    for _ in range(3):
        s.dies(
            fault=inside(
                "kill_when_written",
                "save",
                2,
                pattern="*",
                files=0,
                seconds=float(moments.uniform(0, 0.02)),
            )
        )
    s.goes_on()


@fault("the terminal is closed (SIGHUP)")
def hung_up(s):
    s.fresh()
    s.dies(fault=inside("signal", name="SIGHUP", at=7))
    s.goes_on()


@fault(
    "SIGKILL while text is preprocessed into the cache",
    data="text",
    hf=False,
    why="it does not preprocess",
)
def killed_in_cache(s):
    s.fresh()
    (s.folder / "text.txt").write_text("".join(prose(n) for n in range(40)))
    started = s.launch()
    started.wait_until(lambda: any((s.folder / "cache").rglob("*.partial")))
    started.process.kill()
    started.end()
    partial = list((s.folder / "cache").rglob("*.partial"))
    s.expect(bool(partial), "the kill came after the store was made")
    shutil.copy(s.templates / "text.txt", s.folder)
    s.goes_on()
    (s.folder / "text.txt").write_text("".join(prose(n) for n in range(40)))
    shutil.rmtree(s.run)
    s.ends_well()  # with the files that the killed one left


group = "Stopped by a signal"


@fault("SIGTERM during an update")
def terminated(s):
    s.fresh()
    s.stops(75, fault=inside("signal", name="SIGTERM", then=4))
    s.goes_on()


@fault("SIGTERM during validation")
def terminated_in_validation(s):
    s.fresh()
    s.stops(75, fault=inside("signal", "validate", 1, name="SIGTERM", then=4))
    s.goes_on()


@fault("SIGTERM during a save")
def terminated_in_save(s):
    s.fresh()
    s.stops(75, fault=inside("signal", "save", 1, name="SIGTERM", then=4))
    s.goes_on()


@fault("SIGUSR1, as a scheduler's warning")
def warned_by_scheduler(s):
    s.fresh()
    s.stops(75, fault=inside("signal", name="SIGUSR1", then=4))
    s.goes_on()


@fault("Ctrl-C")
def interrupted_once(s):
    s.fresh()
    s.stops(130, fault=inside("signal", name="SIGINT", group=True))
    s.goes_on()


@fault("Ctrl-C with data-loading workers", words=("train.workers=2",))
def interrupted_with_workers(s):
    s.fresh()
    s.stops(130, fault=inside("signal", name="SIGINT", group=True))
    s.goes_on()


@fault("Ctrl-C twice")
def interrupted_twice(s):
    s.fresh()
    s.stops(130, "interrupted", fault=inside("signal", name="SIGINT", group=True, times=2))
    s.goes_on()


# -- disk ------------------------------------------------------------------------------------------------------------

group = "Disk"


@fault("full during a save")
def full_in_save(s):
    s.mount("2m")
    s.fresh()
    s.refuses(
        "No space left|are free on its disk",
        fault=inside("fill", at=7, path="run/ballast", leave=8192),
    )
    (s.run / "ballast").unlink()
    s.goes_on()


@fault("a limit on the size of files is met in a save")
def file_limit_in_save(s):
    s.fresh()
    s.refuses("File too large", before=["prlimit", "--fsize=20000"])
    s.goes_on()


@fault(
    "full while metrics are logged",
    hf=False,
    why="it has no such file: its history is part of the checkpoint",
)
def full_in_log(s):
    s.fresh()
    s.mount("64k", s.folder / "small")  # ends the case where nothing may be mounted
    s.answers(
        "metrics.jsonl.*No space left|No space left.*metrics.jsonl",
        fault=inside("mount_over", at=3, path="run/metrics.jsonl", what="/dev/full"),
    )
    subprocess.run(["umount", str(s.run / "metrics.jsonl")], check=True)
    shutil.rmtree(s.run)
    s.goes_on()


@fault(
    "full while TensorBoard writes",
    words=("hooks.tensorboard.name=tensorboard", "hooks.tensorboard.flush_seconds=1"),
)
def full_in_tensorboard(s):
    s.fresh()
    s.mount("64k", s.folder / "small")
    s.answers(
        "(?i)tensorboard.*No space left|No space left.*tensorboard",
        env={"TENSORBOARD_LOGGING_DIR": "run/tensorboard"},
        fault=inside("fill_behind_link", at=3, path="run/tensorboard", small="small"),
    )
    (s.folder / "small" / "ballast").unlink()
    shutil.rmtree(s.run)
    s.goes_on()


@fault("read-only when the run goes on")
def read_only(s):
    s.mount("4m")
    s.interrupted()
    subprocess.run(["mount", "-o", "remount,ro", str(s.run)], check=True)
    s.refuses("Read-only file system", status=2, unchanged=True)
    subprocess.run(["mount", "-o", "remount,rw", str(s.run)], check=True)
    s.goes_on()


@fault("a file where the run's folder should be")
def file_for_folder(s):
    s.fresh()
    s.run.write_text("not a folder")
    s.refuses("cannot use the run folder .?run.?: (File exists|Not a directory)", status=2)


@fault("the run's folder is deleted under the run")
def folder_deleted(s):
    s.fresh()
    s.refuses("run.*(No such file|was deleted|is gone)", fault=inside("remove", path="run"))
    s.goes_on()


@fault("the run's folder is in use by another process")
def folder_in_use(s):
    s.fresh()
    first = s.launch(fault=inside("pause", at=10))
    first.wait_until(lambda: (s.folder / "paused").exists())
    s.refuses(r"run is in use by process \d+", status=2)
    (s.folder / "go").touch()
    s.went_on(first.end())


@fault("a file where TensorBoard's folder should be", words=("hooks.tensorboard.name=tensorboard",))
def tensorboard_is_a_file(s):
    s.fresh()
    s.run.mkdir()
    (s.run / "tensorboard").write_text("")
    s.answers(
        "(?i)tensorboard.*(File exists|Not a directory)|holds tensorboard, which no run wrote",
        env={"TENSORBOARD_LOGGING_DIR": "run/tensorboard"},
    )
    (s.run / "tensorboard").unlink()
    s.goes_on(metrics=False)


@fault("a folder where metrics.jsonl should be", hf=False, why="it has no such file")
def metrics_is_a_folder(s):
    s.fresh()
    (s.run / "metrics.jsonl").mkdir(parents=True)
    s.answers("holds metrics.jsonl, which no run wrote")
    shutil.rmtree(s.run)
    s.goes_on()


@fault("the last lines of metrics.jsonl are torn and no text", hf=False, why="it has no such file")
def metrics_torn(s):
    s.interrupted()
    with open(s.run / "metrics.jsonl", "ab") as file:
        file.write(b'{"split": "train", "upd\n\x00\xff\xfe\n{"split": "tr')
    s.goes_on()


@fault("whoever reads the output goes away (`| head -1`)", words=("hooks.terminal.name=terminal",))
def reader_gone(s):
    s.fresh()
    reader, writer = os.pipe()
    os.close(reader)
    started = s.launch(stdout=writer, stderr=open(s.folder / f"start-{s.starts + 1}.txt", "w"))  # noqa: SIM115
    os.close(writer)
    s.answered(started.end(), "output|Broken pipe|reader", counts_as="silent")
    s.goes_on()


# -- numbers ---------------------------------------------------------------------------------------------------------

group = "Numbers"
NOT_FINITE = r"update \d+: .*not finite"


@fault("a NaN in the loss of one update")
def nan_loss(s):
    s.fresh()
    s.refuses(NOT_FINITE + ".*draws", status=1, fault=inside("bad_activation"))
    s.goes_on()


@fault("an Inf in the gradient of one update")
def inf_gradient(s):
    s.fresh()
    s.refuses(NOT_FINITE + ".*draws", status=1, fault=inside("bad_gradient"))
    s.goes_on()


@fault("a weight becomes NaN in memory")
def nan_weight(s):
    s.fresh()
    s.refuses(NOT_FINITE + ".*draws", status=1, fault=inside("nan_weight"))
    s.goes_on()


@fault("a weight becomes NaN in memory just before a save", hf=True)
def nan_weight_before_save(s):
    s.fresh()
    s.refuses("not finite", status=1, fault=inside("nan_weight", "save", 1))
    s.goes_on()


@fault(
    "a learning rate that is far too large",
    words=("--optimizer=sgd", "optimizer.lr=1e6", "train.clip=0"),
)
def huge_rate(s):
    s.fresh()
    s.refuses(NOT_FINITE, status=1)


@fault(
    "inputs that are NaN (pixels)",
    data="digits",
    hf=False,
    why="its masked language model reads token ids",
)
def nan_data(s):
    s.fresh()
    s.refuses(NOT_FINITE + ".*draws", status=1, fault=inside("nan_data"))
    s.goes_on()


@fault("token ids beyond the vocabulary", data="store")
def ids_out_of_range(s):
    s.fresh()
    spoil_ids(s)
    s.refuses("(?i)(token|id).*(vocabulary|range|below)")


def spoil_ids(s: Side) -> None:
    """Put the id 60000 into every document, with hashes that fit."""
    if s.name == "hf":
        rows = np.load(s.folder / "tokens.npy")
        rows[:, 5] = 60000
        np.save(s.folder / "tokens.npy", rows)
        return
    from fwk.data.store import fingerprint_of

    manifest = s.folder / "store" / "manifest.json"
    manifest_content = json.loads(manifest.read_text())
    for split in manifest_content["splits"].values():
        for shard in split["shards"]:
            path = s.folder / "store" / f"{shard['name']}.tokens"
            ids = np.fromfile(path, manifest_content["dtype"])
            ids[::10] = 60000
            ids.tofile(path)
            shard["sha256"]["tokens"] = digest(path)
    manifest_content["fingerprint"] = fingerprint_of(manifest_content)
    manifest.write_text(json.dumps(manifest_content))


# -- data ------------------------------------------------------------------------------------------------------------

group = "Data"


@fault("other text in the store since the run began", data="store")
def store_replaced(s):
    s.interrupted()
    other_data(s, s.folder)
    s.refuses("was trained on other data", status=2)


def other_data(s: Side, folder: Path) -> None:
    if s.name == "hf":
        np.save(folder / "tokens.npy", tokens(1))
        return
    shutil.rmtree(folder / "store", ignore_errors=True)
    other_store = s.templates / "other-store"
    if not other_store.is_dir():
        (s.templates / "other.txt").write_text(prose(1))
        make_store(s.templates / "other.txt", other_store)
    shutil.copytree(other_store, folder / "store")


@fault("the store cut short since the run began", data="store")
def store_cut(s):
    s.interrupted()
    for path in s.folder.glob(s.shards):
        cut(path, 0.9)
    s.refuses(r"has \d+ bytes, the manifest lists \d+", status=2)


@fault("some bytes of the store changed since the run began, sizes equal", data="store")
def store_changed(s):
    s.interrupted()
    for path in s.folder.glob(s.shards):
        content = bytearray(path.read_bytes())
        content[256::8] = content[256::8][::-1]
        path.write_bytes(content)
    s.refuses("store|train-.*tokens.*(changed|hash)", status=2)


LARGE = (
    "task.length=256",
    "train.batch=32",
)  # a loader may read small batches long before they are needed


@fault("the store cut short during the run", data="store", words=LARGE)
def store_cut_during(s):
    s.fresh()
    s.refuses("(?i)store|train-.*tokens|data", fault=inside("cut", pattern=s.shards))
    fresh_data(s)
    s.goes_on()


@fault("the store overwritten during the run, sizes equal", data="store", words=LARGE)
def store_overwritten_during(s):
    s.fresh()
    s.refuses("(?i)store|train-.*tokens.*changed", fault=inside("overwrite", pattern=s.shards))
    fresh_data(s)
    s.goes_on()


def fresh_data(s: Side) -> None:
    shutil.rmtree(s.folder / "store", ignore_errors=True)
    s.prepare_data()


@fault("the store deleted during the run", data="store", words=LARGE)
def store_deleted_during(s):
    s.fresh()
    s.answered(
        s.start(fault=inside("remove", path=s.shards.split("/")[0])), "store", counts_as="silent"
    )
    fresh_data(s)
    s.goes_on()


@fault(
    "the store's manifest is damaged",
    data="store",
    hf=False,
    why="a memory-mapped array has no manifest",
)
def store_manifest_damaged(s):
    s.fresh()
    cut(s.folder / "store" / "manifest.json")
    s.refuses("manifest.json is damaged", status=2)


@fault(
    "the store's tokenizer is missing",
    data="store",
    hf=False,
    why="its tokenizer is made in the user's program",
)
def tokenizer_missing(s):
    s.fresh()
    shutil.rmtree(s.folder / "store" / "tokenizer")
    s.refuses("tokenizer", status=2)


# -- processes and limits --------------------------------------------------------------------------------------------

group = "Processes and limits"


@fault("a data-loading worker is killed", words=("train.workers=1",))
def worker_killed(s):
    s.fresh()
    s.refuses("a data-loading worker.* died", status=1, fault=inside("worker", name="SIGKILL"))
    s.goes_on()


@fault("a data-loading worker stops (SIGSTOP)", words=("train.workers=1",))
def worker_stopped(s):
    if s.name == "fwk":  # small batches would all be ready before it stops
        s.words += ("task.length=256", "train.batch=64")
    s.fresh()
    s.refuses(
        r"data-loading workers .* returned nothing for 10 s \(train.timeout\)",
        status=1,
        limit=40,
        fault=inside("worker", at=2, name="SIGSTOP"),
    )
    s.goes_on()


@fault("user code raises in a data-loading worker", data="reached", words=("train.workers=1",))
def worker_raises(s):
    s.fresh()
    s.refuses(
        "error: task .* raised ZeroDivisionError: raised by the fault matrix",
        status=1,
        own_traceback=True,
        fault=inside("raise", "example", 30),
    )
    s.goes_on()


@fault("user code raises in a hook")
def hook_raises(s):
    s.fresh()
    s.refuses(
        "fwk_update_begin of .* raised ZeroDivisionError: raised by the fault matrix",
        status=1,
        own_traceback=True,
        fault=inside("raise"),
    )
    s.goes_on()


@fault("no more file descriptors", words=("train.workers=4",))
def no_descriptors(s):
    s.fresh()
    s.refuses("(?i)too many open files|file descriptors", before=["prlimit", "--nofile=24"])
    s.goes_on()


@fault("no more shared memory", words=("train.workers=1",))
def no_shared_memory(s):
    s.fresh()
    tiny = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    s.refuses("shared memory", before=["unshare", "-m", "sh", "-c", tiny, "sh"])
    s.goes_on()


@fault("out of memory")
def no_memory(s):
    s.fresh()
    if s.name == "hf":
        rows = np.random.default_rng(0).integers(5, 24, (6000, 256))
        np.save(s.folder / "tokens.npy", rows)
    s.start_words = (
        "train.batch=4000",
        "task.sequences=4000",
        "task.length=256",
        "train.updates=2",
        "model.width=64",
    )
    s.refuses(
        r"(?i)memory.*\d+ ?x ?\d+.*train.micro_batch",
        status=1,
        before=["prlimit", f"--as={6 << 30}"],
    )


@fault("the clock jumps a day ahead", words=("train.minutes=10",))
def clock_ahead(s):
    s.fresh()
    s.goes_on(fault=inside("clock", seconds=86400.0))


@fault("the clock jumps a day back", words=("train.minutes=10",))
def clock_back(s):
    s.fresh()
    s.goes_on(fault=inside("clock", seconds=-86400.0))


group = "Variables of a distributed start"


@fault("RANK is not below WORLD_SIZE")
def rank_too_large(s):
    s.fresh()
    s.refuses(
        r"RANK 5 does not lie in \[0, WORLD_SIZE 2\)", status=2, limit=30, env=variables(RANK="5")
    )


def variables(**changes: str) -> dict[str, str]:
    return {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29687",
        **changes,
    }


@fault("WORLD_SIZE is no number")
def world_no_number(s):
    s.fresh()
    s.refuses("WORLD_SIZE 'two' must be", status=2, limit=30, env=variables(WORLD_SIZE="two"))


@fault("LOCAL_RANK is no number")
def local_rank_no_number(s):
    s.fresh()
    s.refuses("LOCAL_RANK.*'first'", status=2, limit=30, env=variables(LOCAL_RANK="first"))


@fault("WORLD_SIZE is set and nothing else")
def only_world_size(s):
    s.fresh()
    s.refuses(
        "WORLD_SIZE is set but .*MASTER_ADDR.* not", status=2, limit=30, env={"WORLD_SIZE": "2"}
    )


@fault("two ranks are announced, one comes")
def one_rank_missing(s):
    s.fresh()
    s.refuses(
        "could not join the job at 127.0.0.1:29687.* within 10 s",
        status=1,
        limit=30,
        env=variables(),
    )


# -- ranks -----------------------------------------------------------------------------------------------------------

group = "Two ranks"
STUCK = 30  # seconds that a stuck job with a timeout of 10 s may take, with its start


@fault("a rank is killed", ranks=2)
def rank_killed(s):
    s.fresh()
    s.refuses("rank", seconds=STUCK, fault=inside("signal", name="SIGKILL", rank=1))
    s.goes_on()


@fault("rank 0 is killed", ranks=2)
def rank_zero_killed(s):
    s.fresh()
    s.refuses("rank", seconds=STUCK, fault=inside("signal", name="SIGKILL", rank=0))
    s.goes_on()


@fault("rank 0 ends with status 0 in the middle", ranks=2)
def rank_zero_exits(s):
    s.fresh()
    s.refuses("rank", seconds=STUCK, fault=inside("exit", rank=0))
    s.goes_on()


@fault("a rank stops (SIGSTOP)", ranks=2)
def rank_stopped(s):
    s.fresh()
    s.refuses("(?i)10 s", seconds=STUCK, limit=90, fault=inside("signal", name="SIGSTOP", rank=1))
    s.goes_on()


@fault("a rank is slow, within train.timeout", ranks=2)
def rank_slow(s):
    s.fresh()
    s.goes_on(fault=inside("sleep", seconds=5, rank=1))


@fault("a rank is slow, beyond train.timeout", ranks=2)
def rank_too_slow(s):
    s.fresh()
    s.refuses("(?i)10 s", seconds=STUCK, limit=90, fault=inside("sleep", seconds=40, rank=1))
    s.goes_on()


@fault("a rank is killed under torchrun --max-restarts=1", ranks=2)
def rank_killed_and_restarted(s):
    s.fresh()
    s.goes_on(restarts=1, fault=inside("signal", name="SIGKILL", at=10, rank=1), limit=90)


@fault("user code raises on one rank", ranks=2)
def rank_raises(s):
    s.fresh()
    s.refuses(
        "raised ZeroDivisionError", own_traceback=True, seconds=STUCK, fault=inside("raise", rank=1)
    )
    s.goes_on()


@fault("SIGTERM to one rank", ranks=2)
def rank_terminated(s):
    s.fresh()
    s.stops(1, fault=inside("signal", name="SIGTERM", rank=1, then=4))
    s.goes_on()


@fault("a rank runs another config", ranks=2)
def rank_other_config(s):
    s.fresh()
    s.refuses(
        "rank 1 was started with other settings than rank 0: optimizer.lr is 0.005 instead of 0.001",
        rank_words={1: ["optimizer.lr=5e-3"]},
    )


@fault("a rank runs another seed", ranks=2)
def rank_other_seed(s):
    s.fresh()
    s.refuses(
        "rank 1 was started with other settings than rank 0: seed is 9 instead of 1",
        rank_words={1: ["seed=9"]},
    )


@fault("a rank reads another version of the data", ranks=2, data="store")
def rank_other_data(s):
    s.fresh()
    elsewhere = s.folder / "elsewhere"
    elsewhere.mkdir()
    other_data(s, elsewhere)
    (elsewhere / "run").symlink_to("../run")
    s.refuses("(?i)ranks.*(data|fingerprint)", rank_folder={1: "elsewhere"})


@fault("a rank does not see the run's folder when the run goes on", ranks=2)
def rank_other_folder(s):
    s.interrupted()
    elsewhere = s.folder / "elsewhere"
    elsewhere.mkdir()
    if s.name == "hf":
        shutil.copy(s.folder / "tokens.npy", elsewhere)
    s.refuses("(?i)rank 1.*checkpoint|checkpoint.*cannot be read", rank_folder={1: "elsewhere"})


DISAGREE = r"(?i)ranks?\b.*(disagree|differ|not the same|out of step)"


@fault("a weight changes on one rank", ranks=2)
def rank_other_weights(s):
    s.fresh()
    s.refuses(DISAGREE, seconds=STUCK, fault=inside("nudge_weight", rank=1))
    s.goes_on()


@fault("a rank is one update further on", ranks=2)
def rank_other_update(s):
    s.fresh()
    s.refuses(DISAGREE, seconds=STUCK, fault=inside("skip_update", rank=1))
    s.goes_on()


@fault("a rank reads its examples in another order", ranks=2)
def rank_other_order(s):
    s.fresh()
    s.refuses(DISAGREE, seconds=STUCK, fault=inside("other_order", "begin", None, rank=1))
    s.goes_on()
