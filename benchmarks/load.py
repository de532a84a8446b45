"""Load `pneumonia serve` on this machine: `python -m benchmarks.load`, in the folder of a project with a finished run.

It starts the service, sends the films of the test split from several clients for some time, and prints requests,
errors, throughput, times and the growth of the memory. Clients and service share the cores, so the service alone is
faster. Every loop ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pneumonia import files
from pneumonia.data import tables

WARM_UP_SECONDS = 5
MAX_SECONDS = 600
TOLERANCE = 1e-4
"""Between a score of the service (ONNX) and the reported one (Keras)."""
_BOUNDARY = "load"


class Film(NamedTuple):
    """A file that is sent, and what the answer must be.

    Attributes:
        name: of the file.
        content: of the file.
        status: expected.
        score: expected, as reported; None if it is not checked.
    """

    name: str
    content: bytes
    status: int = 200
    score: float | None = None


class Service(NamedTuple):
    """A running service.

    Attributes:
        port: on 127.0.0.1.
        pid: of its process.
    """

    port: int
    pid: int

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def send(self, connection: http.client.HTTPConnection, film: Film, path: str = "/v1/predict") -> tuple[int, Any]:
        """Status and answer of a form with one film."""
        disposition = f'Content-Disposition: form-data; name="file"; filename="{film.name}"'
        body = f"--{_BOUNDARY}\r\n{disposition}\r\n\r\n".encode() + film.content + f"\r\n--{_BOUNDARY}--\r\n".encode()
        connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


class Report(NamedTuple):
    """What a load has shown.

    Attributes:
        statuses: number of answers of each status.
        wrong: answers with another status or score than expected, and broken connections, in words.
        seconds: of each request.
        duration: of the whole load, seconds.
        versions: of the models that have answered.
        memory: MB of the service after the warm-up, and at the end.
    """

    statuses: Counter[int]
    wrong: list[str]
    seconds: list[float]
    duration: float
    versions: Counter[str]
    memory: tuple[float, float]

    def __str__(self) -> str:
        p50, p99 = 1000 * np.percentile(self.seconds, [50, 99])
        before, after = self.memory
        return (
            f"{len(self.seconds):,} requests in {self.duration:.0f} s, {len(self.seconds) / self.duration:.0f}/s, "
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, wrong: {len(self.wrong)}, statuses {dict(self.statuses)}, "
            f"memory {before:.0f} -> {after:.0f} MB ({100 * (after / before - 1):+.1f} %)"
        )


@contextmanager
def service(model: str, *options: str) -> Iterator[Service]:
    """`pneumonia serve` of a model on a free port of 127.0.0.1, in the current folder."""
    command = [sys.executable, "-m", "pneumonia.cli", "serve", "--model", model, "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr
            head = []
            for line in running.stderr:
                head.append(line)
                if match := re.search(r"http://127\.0\.0\.1:(\d+) ", line):
                    break
            else:
                raise SystemExit("".join(head))
            # Its log must not fill the pipe.
            threading.Thread(target=lambda: [None for _ in running.stderr or ()], daemon=True).start()
            yield Service(int(match[1]), running.pid)
        finally:
            running.terminate()
            running.wait(60)


def test_films(splits: Path, predictions: Path) -> list[Film]:
    """The films of the test split, with their reported scores."""
    scores = tables.read_table(predictions).set_index("image_id")["score"]
    table = tables.read_table(splits)
    rows = table[(table["split"] == "test") & table["image_id"].isin(scores.index)]
    return [
        Film(row.image_id, files.read_bytes(row.uri), score=float(scores[row.image_id])) for row in rows.itertuples()
    ]


def bad_files(films: Sequence[Film]) -> list[Film]:
    """Files of which none has an answer."""
    content = films[0].content
    return [
        Film("empty", b"", 400),
        Film("text", b"no image", 415),
        Film("cut", content[: len(content) // 2], 422),
        Film("noise", random.Random(0).randbytes(300_000), 415),
        Film("large", bytes(60_000_000), 413),
    ]


def load(
    to: Service,
    films: Sequence[Film],
    *,
    clients: int = 32,
    seconds: float = 60,
    bad_share: float = 0,
    tolerance: float = TOLERANCE,
) -> Report:
    """Send films for some time.

    Args:
        to: the service.
        films: sent at random.
        clients: threads, each with one connection.
        seconds: at most `MAX_SECONDS`.
        bad_share: share of the requests with a bad file.
        tolerance: largest difference to the reported scores.
    """
    bad = bad_files(films)
    done = Report(Counter(), [], [], 0, Counter(), (0, 0))
    lock = threading.Lock()
    start = time.monotonic()
    end = start + min(seconds, MAX_SECONDS)

    def client(number: int) -> None:
        draw = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", to.port, timeout=120)
        while time.monotonic() < end:
            film = draw.choice(bad if draw.random() < bad_share else films)
            begin = time.monotonic()
            try:
                status, answer = to.send(connection, film)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with lock:
                    done.wrong.append(f"{film.name}: {type(error).__name__}")
                    done.seconds.append(time.monotonic() - begin)
                continue
            with lock:
                done.seconds.append(time.monotonic() - begin)
                done.statuses[status] += 1
                done.versions[str(answer.get("model", {}).get("version", ""))] += status == 200
                if problem := _problem(film, status, answer, tolerance):
                    done.wrong.append(problem)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(min(WARM_UP_SECONDS, seconds / 2))
    before = to.memory()
    for thread in threads:
        thread.join()
    return done._replace(duration=time.monotonic() - start, memory=(before, to.memory()))


def _problem(film: Film, status: int, answer: Mapping[str, Any], tolerance: float) -> str:
    if status != film.status:
        return f"{film.name}: {status}, expected {film.status}: {answer.get('error', '')}"
    if film.score is not None and abs(answer["predictions"][0]["score"] - film.score) > tolerance:
        return f"{film.name}: score {answer['predictions'][0]['score']}, reported {film.score}"
    return ""


def send_once(to: Service, films: Sequence[Film]) -> tuple[float, list[str]]:
    """Largest difference between a score over HTTP and the reported one, and wrong answers in words."""
    connection = http.client.HTTPConnection("127.0.0.1", to.port, timeout=120)
    largest, wrong = 0.0, []
    for film in films:
        status, answer = to.send(connection, film)
        if problem := _problem(film, status, answer, TOLERANCE):
            wrong.append(problem)
        if status == 200 and film.score is not None:
            largest = max(largest, abs(answer["predictions"][0]["score"] - film.score))
    connection.close()
    return largest, wrong


def report(model: str, *, seconds: float, clients: int) -> None:
    """Print what the service of a model does under load, without bad files and with one in ten.

    Raises:
        SystemExit: an answer was wrong.
    """
    films = test_films(Path("data/splits.csv"), Path("reports/predictions.csv"))
    with service(model) as one:
        difference, wrong = send_once(one, films)
        print(f"serve: {len(films)} test films over HTTP, largest difference to the reported scores {difference:.1e}")
        for share in (0, 0.1):
            done = load(one, films, clients=clients, seconds=seconds, bad_share=share)
            print(f"serve: {clients} clients, {share:.0%} bad files: {done}")
            wrong += done.wrong
    for problem in wrong[:10]:
        print(f"serve:   {problem}")
    if wrong:
        raise SystemExit(f"serve: {len(wrong)} answers were wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/predictor")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    report(options.model, seconds=options.seconds, clients=options.clients)


if __name__ == "__main__":
    main()
