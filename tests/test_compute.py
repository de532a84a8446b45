"""Where work runs never changes what comes out; a lost worker is one clear error."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from distributed import Client

import pneumonia
from pneumonia import UserError, compute, preprocess, validate
from pneumonia.data import tables
from pneumonia.images.geometry import Preparation

# Workers import this file by name, so what they run stands at its top level.


def squares(jobs: Sequence[int]) -> list[int]:
    return [job * job for job in jobs]


def process(jobs: Sequence[int]) -> int:
    return os.getpid()


def first_waits_for_third(jobs: Sequence[tuple[int, Path]]) -> tuple[int, int]:
    """Leaves a file for each job; job 0 ends only after job 2, which so must run in another process."""
    ((number, folder),) = jobs
    give_up = time.monotonic() + 60
    while number == 0 and not (folder / "2").exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    (folder / str(number)).touch()
    return number, os.getpid()


def dies_at_three(jobs: Sequence[tuple[int, Path, int]]) -> int:
    """Leaves a file for each time a job runs; job 3 takes its process along so many times."""
    ((number, folder, times),) = jobs
    mark = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{mark}-{os.getpid()}").touch()
    if number == 3 and mark < times:
        # What the kernel does to a process that takes too much memory; late, so that earlier jobs have come back.
        time.sleep(0.5)
        os._exit(137)
    return number


def refused(jobs: Sequence[int]) -> int:
    if 2 in jobs:
        raise UserError(f"job 2 of {list(jobs)} is bad")
    return len(jobs)


def crashed(jobs: Sequence[int]) -> int:
    raise ZeroDivisionError("a bug, not a user's mistake")


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    parts = list(compute.run(squares, compute.chunks(range(10), 4), workers=workers, label="test"))
    assert parts == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]


@pytest.mark.slow
def test_order_is_kept_when_later_jobs_finish_first(tmp_path: Path) -> None:
    jobs = [(number, tmp_path) for number in range(6)]
    results = list(compute.run(first_waits_for_third, compute.chunks(jobs, 1), workers=2, label="test"))
    assert [number for number, _ in results] == list(range(6))
    assert results[0][1] != results[2][1]
    assert os.getpid() not in dict(results).values()


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_no_jobs_give_no_results(workers: int | None) -> None:
    assert list(compute.run(squares, compute.chunks([], 4), workers=workers, label="test")) == []


def test_one_chunk_needs_no_other_process() -> None:
    assert list(compute.run(process, compute.chunks([1, 2], 2), workers=8, label="test")) == [os.getpid()]


def test_a_worker_that_dies_costs_its_chunk_and_nothing_else(tmp_path: Path) -> None:
    jobs = [(number, tmp_path, 1) for number in range(8)]
    results = list(compute.run(dies_at_three, compute.chunks(jobs, 1), workers=2, label="test"))
    assert results == list(range(8))
    runs = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert runs.count("3") == 2
    assert runs[:3] == ["0", "1", "2"], "finished chunks are not done again"


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    jobs = [(number, tmp_path, 99) for number in range(8)]
    with pytest.raises(UserError) as caught:
        list(compute.run(dies_at_three, compute.chunks(jobs, 1), workers=2, label="preprocess train"))
    message = str(caught.value)
    assert message.startswith("preprocess train: worker processes were killed 3 times")
    assert "lower compute.workers (now 2)" in message
    assert "\n" not in message
    assert len(list(tmp_path.glob("3-*"))) == 1 + compute.MAX_LOSSES


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_arrives_as_it_is(workers: int) -> None:
    with pytest.raises(UserError, match=r"^job 2 of \[2, 3\] is bad$"):
        list(compute.run(refused, compute.chunks(range(6), 2), workers=workers, label="test"))


@pytest.mark.slow
def test_a_bug_in_a_worker_is_not_dressed_up_as_a_mistake_of_the_user() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(compute.run(crashed, compute.chunks(range(4), 2), workers=2, label="test"))


def test_workers_stay_a_few_jobs_ahead_of_the_reader_and_stop_with_it(tmp_path: Path) -> None:
    jobs = [(number, tmp_path) for number in range(50)]
    results = compute.run(first_waits_for_third, compute.chunks(jobs, 1), workers=2, label="test")
    assert next(results)[0] == 0
    time.sleep(0.3)  # in which the rest would be done, were it handed out
    results.close()  # type: ignore[attr-defined]
    assert {path.name for path in tmp_path.iterdir()} <= {"0", "1", "2", "3"}


# --- the end of the parent ---


def endless(jobs: Sequence[Path]) -> None:
    (jobs[0] / f"{os.getpid()}").touch()
    time.sleep(300)


HEAD = """
import sys
from pathlib import Path
from pneumonia import compute
from tests import test_compute
folder = Path(sys.argv[1])
if __name__ == "__main__":
    list(compute.run(test_compute.endless, [[folder]] * 2, workers=2, label="test"))
"""


INTERRUPTED = """
import os, signal
if __name__ == "__mp_main__":
    os.kill(os.getpid(), signal.SIGINT)  # before anything of the project is imported
"""


@contextmanager
def working(folder: Path, repo: Path, code: str = HEAD) -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """A process with two workers that never end, and their ids; nothing of it is left."""
    script, workers = folder / "head.py", folder / "workers"
    script.write_text(code)
    workers.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(repo / "src"), str(repo)])}
    head = subprocess.Popen(
        [sys.executable, str(script), str(workers)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: len(list(workers.iterdir())) == 2)
        yield head, {int(path.name) for path in workers.iterdir()}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def _lives(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path, repo: Path) -> None:
    with working(tmp_path, repo) as (head, workers):
        assert all(map(_lives, workers))
        head.kill()
        head.wait()
        _until(lambda: not any(map(_lives, workers)), seconds=10)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_leave_an_interrupt_to_their_parent(tmp_path: Path, repo: Path) -> None:
    with working(tmp_path, repo) as (_, workers):
        for worker in workers:
            os.kill(worker, signal.SIGINT)
        time.sleep(1)
        assert all(map(_lives, workers))


def test_an_interrupt_while_workers_start_is_left_to_their_parent(tmp_path: Path, repo: Path) -> None:
    with working(tmp_path, repo, INTERRUPTED + HEAD) as (head, _):
        assert head.poll() is None


# --- a Dask cluster, on the loopback interface ---


@contextmanager
def cluster(folder: Path, *, workers: int = 2, **environment: str) -> Iterator[str]:
    """A scheduler and worker processes, as a user starts them by hand; they end with the block."""
    where = {"cwd": folder, "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    file, python = folder / "scheduler.json", [sys.executable, "-m", "dask"]
    listen = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    started = [subprocess.Popen([*python, "scheduler", *listen], **where, **quiet)]
    try:
        address = _address(file)
        if workers == 0:
            yield address
            return
        one = ["worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
        started.append(subprocess.Popen([*python, *one, "--nworkers", str(workers)], **where, **quiet))
        _wait_for_workers(address, workers)
        yield address
    finally:
        for process in started:
            # With the processes it started, at once: a nanny that is starting a worker anew would wait for it.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _address(file: Path) -> str:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if file.is_file() and (text := file.read_text()):
            return str(json.loads(text)["address"])
        time.sleep(0.1)
    raise TimeoutError("the Dask scheduler did not start")


def _wait_for_workers(address: str, workers: int) -> None:
    with Client(address, timeout=30) as client:
        client.wait_for_workers(workers, timeout=60)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


def test_a_cluster_gives_the_same_results_in_the_same_order(dask: str) -> None:
    parts = list(compute.run(squares, compute.chunks(range(1000), 7), workers=1, label="test", dask=dask))
    assert parts == list(compute.run(squares, compute.chunks(range(1000), 7), workers=1, label="test"))


def test_work_on_a_cluster_is_done_by_its_workers(dask: str) -> None:
    found = set(compute.run(process, compute.chunks(range(40), 1), workers=1, label="test", dask=dask))
    assert os.getpid() not in found
    assert len(found) == 2


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_dies_costs_its_chunk_and_nothing_else(tmp_path: Path) -> None:
    jobs = [(number, tmp_path, 1) for number in range(8)]
    (tmp_path / "cluster").mkdir()
    with cluster(tmp_path / "cluster") as address:
        assert list(compute.run(dies_at_three, compute.chunks(jobs, 1), workers=1, label="test", dask=address)) == list(
            range(8)
        )
    assert len(list(tmp_path.glob("3-*"))) == 2


def test_an_error_of_a_cluster_worker_arrives_as_it_is(dask: str) -> None:
    with pytest.raises(UserError, match=r"^job 2 of \[2, 3\] is bad$"):
        list(compute.run(refused, compute.chunks(range(6), 2), workers=1, label="test", dask=dask))


def test_the_images_and_measures_of_a_cluster_are_the_same_bytes(
    dask: str, in_project: Path, write_manifest: Callable[..., pd.DataFrame]
) -> None:
    rng = np.random.default_rng(1)
    manifest = write_manifest({f"i{n:03}": rng.integers(0, 256, (40, 50 + n % 3), np.uint8) for n in range(40)})
    manifest["uri"] = [Path(uri).name for uri in manifest["uri"]]  # relative: the workers have another current folder
    splits = manifest.assign(split=["train", "train", "val", "test"] * 10, weight=1.0, repeats=1)
    preparation = Preparation(size=32, tile_grid=4, crop=0.1)
    made = {}
    for name, where in {"one": {"workers": 1}, "two": {"workers": 2}, "dask": {"workers": 1, "dask": dask}}.items():
        resume = in_project / name / "resume"
        resume.mkdir(parents=True)
        table = validate.measure(manifest, min_side=8, min_std=1.0, **where)
        tables.write_table(table, in_project / name / "valid.csv")
        path = in_project / name / "images.zarr"
        preprocess.write_store(splits, path, preparation, **where, attributes={}, resume=resume)
        made[name] = {
            str(path.relative_to(in_project / name)): path.read_bytes()
            for path in sorted((in_project / name).rglob("*"))
            if path.is_file()
        }
    assert made["one"] == made["two"] == made["dask"]
    assert any("images/c/" in name for name in made["dask"])


def test_without_a_scheduler_there_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_CONNECT_SECONDS", 1)
    with pytest.raises(UserError) as caught:
        list(compute.run(squares, compute.chunks([1], 1), workers=1, label="test", dask="tcp://127.0.0.1:9"))
    assert str(caught.value).startswith("compute.dask = tcp://127.0.0.1:9: no Dask scheduler answers (")
    assert str(caught.value).endswith("set compute.dask: null")
    assert "\n" not in str(caught.value)


def test_workers_that_do_not_see_the_project_are_refused_at_the_start(
    dask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    folder.with_name("gone").mkdir()
    monkeypatch.setattr(Path, "cwd", classmethod(lambda cls: folder))
    with pytest.raises(UserError, match=r"2 of 2 workers do not see the project at .*mount it under") as caught:
        list(compute.run(squares, compute.chunks([1], 1), workers=1, label="test", dask=dask))
    assert "\n" not in str(caught.value)


def test_workers_with_other_code_are_refused_at_the_start(tmp_path: Path, repo: Path) -> None:
    shutil.copytree(repo / "src", tmp_path / "src")
    with open(tmp_path / "src" / "pneumonia" / "workspace.py", "a") as file:
        file.write("# an edit\n")
    with (
        cluster(tmp_path, workers=1, PYTHONPATH=str(tmp_path / "src")) as address,
        pytest.raises(UserError, match="1 of 1 workers run another version of it"),
    ):
        list(compute.run(squares, compute.chunks([1], 1), workers=1, label="test", dask=address))


def test_workers_that_lack_the_project_are_refused_at_the_start(tmp_path: Path) -> None:
    elsewhere = tmp_path / "shadow" / "pneumonia"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").write_text("")  # another package of this name, without the project's modules
    with (
        cluster(tmp_path, workers=1, PYTHONPATH=str(elsewhere.parent)) as address,
        pytest.raises(UserError, match=r"1 of 1 workers cannot import it .*start them again") as caught,
    ):
        list(compute.run(squares, compute.chunks([1], 1), workers=1, label="test", dask=address))
    assert "\n" not in str(caught.value)


def test_a_cluster_without_workers_is_one_line(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, workers=0) as address,
        pytest.raises(UserError, match="the cluster has no workers; start some"),
    ):
        list(compute.run(squares, compute.chunks([1], 1), workers=1, label="test", dask=address))


def test_the_code_digest_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [tmp_path / "compute.py", tmp_path / "report" / "page.py"]
    modules[1].parent.mkdir()
    for module in modules:
        module.write_text("a = 1")
    monkeypatch.setattr(pneumonia, "__file__", str(tmp_path / "__init__.py"))
    before = pneumonia.code_digest()
    assert before == pneumonia.code_digest()
    for module in modules:
        module.write_text("a = 2")
        assert pneumonia.code_digest() != before
        before = pneumonia.code_digest()


def next_of(jobs: Sequence[object]) -> Callable[[], object | None]:
    waiting = iter(jobs)
    return lambda: next(waiting, None)


def square(job: int) -> int:
    return job * job


def dies_at_three_alone(job: tuple[int, Path, int]) -> int:
    return dies_at_three([job])


def test_jobs_that_are_made_on_demand_have_all_their_results() -> None:
    results = dict(compute.run_each(square, next_of(range(7)), workers=2, label="test"))
    assert results == {number: number * number for number in range(7)}


def test_jobs_say_that_no_workers_are_left_and_wait_for_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compute, "_CONNECT_SECONDS", 0.01)
    client, job = SimpleNamespace(ncores=dict), Future[int]()

    def a_worker_starts() -> None:
        compute._say_no_workers(client, "tcp://here:8786", "tune")
        job.set_result(9)

    pool = SimpleNamespace(submit=lambda function, number: job)
    results = dict(compute._as_they_end([pool], square, next_of([3]), "tune", lambda slot: pool, a_worker_starts))
    assert results == {3: 9}
    assert capsys.readouterr().out == "tune: no workers are left at tcp://here:8786; waiting for one to start\n"


def test_jobs_on_a_cluster_each_have_their_result(dask: str) -> None:
    results = dict(compute.run_each(square, next_of(range(5)), workers=1, label="test", dask=dask))
    assert results == {number: number * number for number in range(5)}


@pytest.mark.slow
def test_a_worker_that_dies_without_work_is_replaced() -> None:
    jobs = iter(range(3))

    def next_job() -> int | None:
        job = next(jobs, None)
        if job == 2:  # both workers are free and started
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
        return job

    results = dict(compute.run_each(square, next_job, workers=1, label="test"))
    assert results == {0: 0, 1: 1, 2: 4}


def test_a_job_is_made_only_when_a_worker_is_free() -> None:
    ended: list[int] = []
    jobs = iter(range(5))

    def next_job() -> int | None:
        job = next(jobs, None)
        assert job is None or len(ended) >= job - 1  # two workers: the third job is made after the first result
        return job

    for job, _ in compute.run_each(square, next_job, workers=2, label="test"):
        ended.append(job)
    assert sorted(ended) == list(range(5))


def test_the_death_of_a_worker_repeats_its_job_and_no_other(tmp_path: Path) -> None:
    jobs = [(number, tmp_path, 1) for number in range(5)]
    results = [result for _, result in compute.run_each(dies_at_three_alone, next_of(jobs), workers=2, label="test")]
    assert sorted(results) == list(range(5))
    marks = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert marks == ["0", "1", "2", "3", "3", "4"]


@pytest.mark.slow
def test_a_job_whose_workers_die_again_and_again_is_one_line(tmp_path: Path) -> None:
    jobs = [(3, tmp_path, 99)]
    with pytest.raises(UserError, match=r"were killed 3 times.*lower compute\.trial_workers.*finished trials are kept"):
        list(compute.run_each(dies_at_three_alone, next_of(jobs), workers=1, label="test"))
