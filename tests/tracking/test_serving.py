"""A registered version answers where only its own requirements are installed, without this project."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest

from pneumonia.models.predictor import Predictor
from pneumonia.tracking import registry, runs
from tests import predictors
from tests.conftest import png
from tests.service.conftest import eventually, film
from tests.service.conftest import serving as following

FILMS = [png(np.full((40, 50), level, np.uint8)) for level in (90, 170)]


@contextmanager
def serving(python: Path, uri: str, store: str) -> Iterator[str]:
    """The address of `mlflow models serve`, which ends with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "mlflow", "models", "serve", "-m", uri, "-h", "127.0.0.1", "-p", str(port)]
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": os.environ["HOME"]}
    environment |= {"MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"}
    options = ["--env-manager", "local"]
    server = subprocess.Popen([*command, *options], env=environment, start_new_session=True, cwd=python.parent)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.mark.slow
@pytest.mark.usefixtures("real_versions")
def test_a_version_answers_in_an_environment_of_its_own_requirements(
    answering: Predictor, root: Path, trained: runs.TrainRun, tmp_path: Path
) -> None:
    store = runs.open_store(root)
    registry.register("phantom", trained, answering, {"val_auc": 0.8})
    registry.set_champion("phantom", lambda tags: (1,))
    uri = "models:/pneumonia-phantom@champion"
    expected = answering.predict(FILMS).assign(version="1")
    model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "model")))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    requirements = ("-r", model / "requirements.txt")
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    code = f"""
import json, mlflow, pandas
mlflow.set_tracking_uri({store!r})
films = [bytes.fromhex(film) for film in {[film.hex() for film in FILMS]!r}]
answers = mlflow.pyfunc.load_model({uri!r}).predict(pandas.DataFrame({{"image": films}}))
import sys
assert "tensorflow" not in sys.modules
print(answers.to_json(orient="records"))
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(expected.to_json(orient="records"))
    with serving(python, uri, store) as address:
        body = {
            "dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(film).decode()] for film in FILMS]}
        }
        request = urllib.request.Request(f"{address}/invocations", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as response:
            answers = json.load(response)["predictions"]
    assert [answer["score"] for answer in answers] == pytest.approx(expected["score"].tolist())
    assert [answer["label"] for answer in answers] == ["normal", "pneumonia"]
    assert [answer["version"] for answer in answers] == ["1", "1"]


@pytest.mark.slow
@pytest.mark.usefixtures("real_versions")
def test_no_request_fails_while_the_champion_is_replaced_in_the_registry(
    root: Path, trained: runs.TrainRun, answering: Predictor, tmp_path: Path
) -> None:
    other = Predictor(predictors.write(tmp_path / "other" / "predictor", data="phantom", synthetic=True, caution="new"))
    versions: list[str] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answer = served.send(("x", film()))
            assert answer.status == 200
            versions.append(answer.json["model"]["version"])

    runs.open_store(root)
    registry.register("phantom", trained, answering, {"val_auc": 0.8})
    registry.set_champion("phantom", lambda tags: (1,))
    with following("models:/pneumonia-phantom@champion", poll_seconds=0.2) as served, ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(client) for _ in range(4)]
        try:
            registry.register("phantom", trained, other, {"val_auc": 0.8})
            registry.set_champion("phantom", lambda tags: (1,))
            eventually(lambda: "2" in versions[-1:])
        finally:
            stop.set()
        for call in calls:
            call.result()
    assert set(versions) == {"1", "2"}
