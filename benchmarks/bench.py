"""Measure the figures that the documents state: `make bench`, or `python -m benchmarks.bench NAME`.

Ratios and AUCs are printed with n. Absolute times depend on the machine, so its number of cores is printed first.
"""

from __future__ import annotations

import inspect
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import load, saliency, search, unusual
from pneumonia import compute, export, files, predict, preprocess, train, workspace
from pneumonia.data import phantom
from pneumonia.data.store import Split
from pneumonia.images import decode, geometry, lungs
from pneumonia.metrics import ranking
from pneumonia.models import networks, runtime, scoring
from pneumonia.models.predictor import SCHEMA, Predictor
from pneumonia.training.batches import batches
from pneumonia.training.features import frozen_features
from pneumonia.training.recipe import Recipe, Schedule

RECIPE = Recipe(
    batch_size=32,
    image_size=None,
    weight_decay=5e-4,
    crop=1.0,
    flip=False,
    hide_edges=0.0,
    augment=0.0,
    strength=1.0,
    mixup=0.0,
    label_smoothing=0.0,
    average=0.0,
    keep="best",
    head_epochs=0,
    copies=1,
    unfreeze=1.0,
    layer_decay=1.0,
    box_weight=0.5,
)
SCHEDULE = Schedule(epochs=15, patience=15, learning_rate=1e-3, seed=1)
PREPARATION = geometry.Preparation(size=224)
AROUND_LUNGS = geometry.Preparation(size=224, aspect="lungs", segmenter=geometry.SEGMENTER)


def _prepared(patients: Sequence[phantom.Patient]) -> list[tuple[Any, Any, int, str]]:
    return [
        (
            geometry.prepare(one.image, PREPARATION),
            cv2.resize(one.image, (32, 32), interpolation=cv2.INTER_AREA),
            one.label,
            one.patient_id,
        )
        for patient in patients
        for one in phantom.render(patient)
    ]


def bench_phantom(n_images: int = 4_000, n_test: int = 1_000) -> None:
    """The phantom is not trivial: a small network solves it, a linear model on pixels does not."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start = time.perf_counter()
    patients = phantom.plan(n_images, seed=1)
    rows = [
        row
        for part in compute.run(_prepared, compute.chunks(patients, 32), workers=None, label="render", unit="patient")
        for row in part
    ]
    print(f"phantom: {n_images} images rendered and prepared, {n_images / (time.perf_counter() - start):.0f} images/s")
    images, small = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]).reshape(n_images, -1)
    labels, groups = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    learn, test = _by_patient(groups, n_test / n_images)
    print(f"phantom: {len(learn)} images to train on, {len(test)} of other patients to test on")

    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    linear.fit(small[learn], labels[learn])
    _report("linear model on 32x32 pixels", labels[test], linear.predict_proba(small[test])[:, 1])

    runtime.start_keras(1)
    fit, val = _by_patient(groups[learn], 0.15)
    model = networks.create_model("compact", dropout=0.1)
    start = time.perf_counter()
    history = train.fit(
        model,
        _split(images, labels, learn[fit]),
        _split(images, labels, learn[val]),
        RECIPE._replace(augment=0.5),
        SCHEDULE,
    )
    n_trained = len(fit) * len(history)
    print(f"phantom: compact trained with {n_trained / (time.perf_counter() - start):.0f} images/s")
    _report("compact", labels[test], scoring.predict_scores(model, images[test]))


def bench_preprocess(n_images: int = 4_096) -> None:
    """From full-resolution JPEG to a prepared 224 px chunk: compared with a notebook, and one process with two."""
    from skimage.exposure import equalize_adapthist
    from skimage.transform import resize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contents, kind = _full_resolution()
        print(f"preprocess: {len(contents)} different JPEG files, {kind}")

        def notebook(content: bytes) -> Any:
            image = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
            return (resize(equalize_adapthist(image, clip_limit=0.01), (224, 224), anti_aliasing=True) * 255).astype(
                "u1"
            )

        def ours(content: bytes) -> Any:
            return geometry.prepare(decode.decode(content), PREPARATION)

        cv2.setNumThreads(1)
        rates = {}
        for function in (notebook, ours):
            function(contents[0])  # so that loading and allocation are not measured
            start = time.perf_counter()
            for content in contents:
                function(content)
            rates[function] = len(contents) / (time.perf_counter() - start)
        cv2.setNumThreads(-1)
        print(
            f"preprocess: {rates[ours]:.0f} images/s on one core, {rates[ours] / rates[notebook]:.1f} times the loop "
            f"of a notebook ({rates[notebook]:.1f}; PIL, equalize_adapthist, resize)"
        )

        splits = _table_of_files(folder, contents, n_images)
        seconds = {workers: _write_store(splits, folder, workers) for workers in (1, 2)}
        print(
            f"preprocess: a store of {n_images} images on 2 processes {seconds[1] / seconds[2]:.2f} times as fast as "
            f"on 1 ({n_images / seconds[2]:.0f} images/s, with the start of the processes)"
        )


def bench_memory() -> None:
    """Peak memory of `write_store` does not depend on the number of images."""
    peaks = {}
    for n_images in (1_000, 20_000):
        # A new process, because peak memory never falls.
        command = [sys.executable, "-c", f"from benchmarks import bench; bench.print_peak({n_images})"]
        peaks[n_images] = [float(word) for word in subprocess.check_output(command, text=True).split()]
        head, worker = peaks[n_images]
        print(f"memory: {n_images:6,} images: peak {head:.0f} MB in the stage, {worker:.0f} MB in a worker")
    ratios = [large / small for small, large in zip(*peaks.values(), strict=True)]
    print(f"memory: 20,000 images to 1,000: {ratios[0]:.2f} in the stage, {ratios[1]:.2f} in a worker")


def print_peak(n_images: int) -> None:
    """Print the peak memory in MB of this process and of its largest child, after writing a store of `n_images`."""
    small = [cv2.imencode(".jpeg", one)[1].tobytes() for one in _renders(8)]
    with tempfile.TemporaryDirectory() as name:
        _write_store(_table_of_files(Path(name), small, n_images), Path(name), 2)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        print(resource.getrusage(who).ru_maxrss / 1024)


def bench_input(n_images: int = 4_096, batch_size: int = 32) -> None:
    """The rate of batches from the store, compared with the rate at which `compact` trains."""
    rng = np.random.default_rng(1)
    labels = np.arange(n_images) % 2
    split = _split(rng.integers(0, 256, (n_images, 224, 224), np.uint8), labels, np.arange(n_images))
    rows, rates = np.arange(n_images), {}
    for augment in (0.0, 0.5):
        recipe = RECIPE._replace(batch_size=batch_size, augment=augment)
        stream = iter(batches(split.images, split, rows, recipe, seed=1))
        next(stream)
        start = time.perf_counter()
        for _ in range(n_images // batch_size):
            next(stream)
        rates[augment] = n_images / (time.perf_counter() - start)
    runtime.start_keras(1)
    model = networks.create_model("compact", dropout=0.1)
    few = _split(split.images, labels, np.arange(1_024))
    ends: list[float] = []
    train.fit(
        model,
        few,
        _split(split.images, labels, np.arange(64)),
        RECIPE._replace(batch_size=batch_size),
        SCHEDULE._replace(epochs=3),
        report=lambda epoch, values: ends.append(time.perf_counter()),
    )
    trained = 2 * 1_024 / (ends[2] - ends[0])  # the first epoch traces the graph
    print(
        f"input: {rates[0.0]:.0f} images/s from the store, {rates[0.0] / trained:.0f} times the rate at which compact "
        f"trains ({trained:.0f}); with augmentation of every second image {rates[0.5]:.0f}"
    )


def bench_training(n_images: int = 384, rounds: int = 3) -> None:
    """Training from the store, compared with a notebook that uses an ImageDataGenerator, and with PyTorch."""
    runtime.start_keras(1)
    contents, kind = _full_resolution()
    labels = np.arange(n_images) % 2
    prepared = [geometry.prepare(decode.decode(content), PREPARATION) for content in contents]
    split = _split(np.stack([prepared[n % len(prepared)] for n in range(n_images)]), labels, np.arange(n_images))

    with tempfile.TemporaryDirectory() as name, _notebook_epochs(Path(name), contents, n_images) as epoch:
        _compare_with(
            "compact", split, 0.5, epoch, rounds, f"an ImageDataGenerator on {len(contents)} JPEG files, {kind}"
        )
    python = _python_with_torch()
    if not python:
        print(
            "training: PyTorch is not installed, its loop is skipped; pip install torch, or set "
            "BENCH_TORCH_PYTHON to an interpreter that has it"
        )
        return
    for model in ("compact", "shallow"):
        with _torch_epochs(python, model, split) as epoch:
            _compare_with(model, split, 0.0, epoch, rounds, "a PyTorch loop without augmentation")


def bench_head(n_images: int = 512, epochs: int = 4) -> None:
    """A trial of a head on features computed once, compared with one that runs the frozen backbone in every epoch."""
    import keras

    runtime.start_keras(1)
    rng = np.random.default_rng(1)
    pixels, labels = rng.integers(0, 256, (n_images, 224, 224), np.uint8), np.arange(n_images) % 2
    split, few = (_split(pixels, labels, np.arange(n)) for n in (n_images, 16))
    model = networks.create_model("fusion")
    seconds = {}
    start = time.perf_counter()
    features = frozen_features(model, split, few, RECIPE, epochs=epochs, seed=1)
    seconds["features"] = time.perf_counter() - start
    start = time.perf_counter()
    train.fit(model, split, few, RECIPE, SCHEDULE._replace(epochs=epochs), features=features)
    seconds["head"] = time.perf_counter() - start
    plain = keras.Model(model.input, model.output)
    plain.compile(optimizer=keras.optimizers.AdamW(1e-3), loss="binary_crossentropy")
    stream = batches(split.images, split, np.arange(n_images), RECIPE, seed=1)
    start = time.perf_counter()
    plain.fit(stream, steps_per_epoch=n_images // RECIPE.batch_size, epochs=epochs, shuffle=False, verbose=0)
    seconds["whole"] = time.perf_counter() - start
    print(
        f"head: a trial of the head of fusion, {n_images} images, {epochs} epochs: "
        f"{seconds['whole'] / seconds['head']:.0f} times as fast on features as through the backbone; the features "
        f"take {seconds['features'] / seconds['whole']:.2f} of a trial through the backbone, once for a study"
    )


def bench_predict(n_images: int = 200, n_files: int = 2_000) -> None:
    """The predictor against `predict` of Keras; the first answer; two workers against one. One thread each."""
    large, kind = _full_resolution()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _export_compact(place)
        predictor = Predictor(place / "predictor", threads=1)
        cv2.setNumThreads(1)
        renders = [cv2.resize(image, (224, 224)) for image in _renders(n_images)]
        small = [cv2.imencode(".jpeg", image)[1].tobytes() for image in renders]
        medians = {}
        for name, contents in (("224-pixel JPEG", small), (f"full-resolution JPEG ({kind})", large)):
            times = [_seconds(lambda content=content: list(predictor.scores([content]))) for content in contents]
            medians[name], p99 = 1000 * np.percentile(times, [50, 99])
            print(f"predict: {name} to probability, n = {len(times)}: p50 {medians[name]:.1f} ms, p99 {p99:.1f} ms")
        print(f"predict: {_keras_milliseconds(place, renders) / medians['224-pixel JPEG']:.0f} times as fast as Keras")
        (place / "film.jpeg").write_bytes(small[0])
        first = [_first_answer(place, place / "film.jpeg") for _ in range(5)]
        print(f"predict: the command for one film takes {np.median(first):.2f} s (median of 5)")
        films = place / "films"
        films.mkdir()
        for number in range(n_files):
            (films / f"{number:05}.jpeg").write_bytes(large[number % len(large)])
        items, _ = predict.find([str(films)])
        source = predict.Source(place / "predictor")
        walls = [_seconds(lambda n=n: list(predict.answers(source, items, workers=n, threads=1))) for n in (1, 2)]
        print(
            f"predict: {n_files} full-resolution JPEGs, two workers are {walls[0] / walls[1]:.2f} times as fast as one"
        )


def bench_lungs(n_images: int = 1_024) -> None:
    """What the search for lungs costs: `preprocess` on one and two cores, answers, the first answer, the package."""
    contents, kind = _full_resolution()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = _table_of_files(folder, contents, n_images)
        found = drawn.drop(columns="lung_mask_uri")
        ways = {
            "pad, lungs drawn by persons": (drawn, PREPARATION),
            "pad, lungs found": (found, PREPARATION),
            "around the lungs": (found, AROUND_LUNGS),
        }
        print(f"lungs: stores of {n_images} full-resolution JPEG files, {kind}")
        for words, (splits, preparation) in ways.items():
            rates = [n_images / _write_store(splits, folder, workers, preparation) for workers in (1, 2)]
            print(f"lungs: {words}: {rates[0]:.0f} films/s on one core, {rates[1]:.0f} on two")
        cv2.setNumThreads(1)
        films = [decode.decode(content) for content in contents]
        lungs.find(films[0])
        times = [_seconds(lambda film=film: lungs.find(film), clock=time.thread_time) for film in films]
        print(f"lungs: a search takes {1000 * np.median(times):.1f} CPU ms a film (median, n = {len(films)})")
        cv2.setNumThreads(-1)
        (folder / "film.jpeg").write_bytes(contents[0])
        for preparation in (PREPARATION, AROUND_LUNGS):
            place = folder / preparation.aspect
            place.mkdir()
            _export_compact(place, preparation)
            predictor = Predictor(place / "predictor", threads=1)
            times = [_seconds(partial(_scored, predictor, content)) for content in contents]
            first = [_first_answer(place, folder / "film.jpeg") for _ in range(5)]
            print(
                f"lungs: {preparation.aspect}: file to probability p50 {1000 * np.median(times):.1f} ms; the command "
                f"for one film {np.median(first):.2f} s (median of 5); the folder has "
                f"{_bytes(place / 'predictor') / 2**20:.1f} MB"
            )
    package, network = Path(lungs.__file__).resolve().parents[1], lungs.FILE.stat().st_size
    print(f"lungs: the package has {_bytes(package) / 2**20:.1f} MB, {network / 2**20:.1f} of them the network")


def _scored(predictor: Predictor, content: bytes) -> None:
    for _ in predictor.scores([content]):
        pass


def _first_answer(place: Path, film: Path) -> float:
    """Seconds of `pneumonia predict` for one film."""
    command = [sys.executable, "-m", "pneumonia.cli", "predict", film, "--model", place / "predictor"]
    return _seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def _bytes(folder: Path) -> int:
    """Of the files in a folder, without what Python has compiled."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")


def _export_compact(place: Path, preparation: geometry.Preparation = PREPARATION) -> None:
    """An untrained `compact` as a predictor and as a Keras file: the weights do not change the time."""
    runtime.start_keras(1)
    model = networks.create_model("compact")
    scoring.save_model(model, place / "model.keras")
    images = np.stack([_grain(number) for number in range(60)])
    facts = {
        "schema": SCHEMA,
        "data": "phantom",
        "model": "compact",
        "preparation": preparation.as_dict(),
        "calibration": {"slope": 1.0, "bias": 0.0},
        "operating_points": {"youden": {"threshold": 0.5, "threshold_calibrated": 0.5}},
        "unusual": export.fit_usual(images, images, 0.01),
        "digests": {},
    }
    (place / "predictor").mkdir()
    export.write(place / "predictor", export.convert(model), facts)


def _grain(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (224, 224), dtype=np.uint8)


def _keras_milliseconds(place: Path, images: Sequence[Any]) -> float:
    """`keras.Model.predict` on one prepared image, in a process with one thread, median of 20."""
    np.save(place / "images.npy", np.stack([geometry.prepare(image, PREPARATION) for image in images[:20]]))
    code = f"""
import os, time, numpy as np
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1); tf.config.threading.set_inter_op_parallelism_threads(1)
import keras
model = keras.saving.load_model({str(place / "model.keras")!r}, compile=False)
images = np.load({str(place / "images.npy")!r})[..., None].astype("float32")
model.predict(images[:1], verbose=0)
times = []
for image in images:
    start = time.perf_counter(); model.predict(image[None], verbose=0); times.append(time.perf_counter() - start)
print(1000 * np.median(times))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def _compare_with(name: str, split: Split, augment: float, other: Callable[[], float], rounds: int, label: str) -> None:
    """Print how much faster `train.fit` is than `other`; the two take turns, epoch by epoch.

    Args:
        name: of the model.
        split: to train on.
        augment: fraction of the images that `train.fit` distorts.
        other: trains for one epoch on as many images, and returns the seconds it took.
        rounds: number of measured epochs of each.
        label: name of `other`.
    """
    few = Split(*(part[:16] for part in split))
    ours: list[float] = []
    theirs: list[float] = []
    since = time.perf_counter()

    def take_turns(epoch: int, values: Any) -> None:
        nonlocal since
        ours.append(time.perf_counter() - since)
        theirs.append(other())
        since = time.perf_counter()

    model = networks.create_model(name, dropout=0.1)
    recipe = RECIPE._replace(augment=augment)
    train.fit(model, split, few, recipe, SCHEDULE._replace(epochs=rounds + 1), report=take_turns)
    # The first round traces graphs and fills caches.
    ratios = np.divide(theirs, ours)[1:]
    n_images = len(split.labels)
    print(
        f"training: {name}, augment {augment}: {np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] times as "
        f"fast as {label} ({n_images / np.median(ours[1:]):.0f} to {n_images / np.median(theirs[1:]):.0f} images/s; "
        f"{rounds} rounds of {n_images} images)"
    )


@contextmanager
def _notebook_epochs(folder: Path, contents: Sequence[bytes], n_images: int) -> Iterator[Callable[[], float]]:
    """One epoch of `compact` as in notebooks: every file is decoded, resized and distorted in Python."""
    import keras
    import tensorflow as tf

    table = _table_of_files(folder, contents, n_images)[["uri"]].assign(label=[str(n % 2) for n in range(n_images)])
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=8, width_shift_range=0.06, height_shift_range=0.06, zoom_range=0.1, brightness_range=(0.9, 1.1)
    )
    with redirect_stdout(io.StringIO()):  # it prints the number of files
        flow = generator.flow_from_dataframe(
            table,
            x_col="uri",
            y_col="label",
            target_size=(networks.MODELS["compact"].size,) * 2,
            color_mode="grayscale",
            class_mode="binary",
            batch_size=RECIPE.batch_size,
        )
    model = networks.create_model("compact", dropout=0.1)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"])

    def epoch() -> float:
        start = time.perf_counter()
        model.fit(flow, verbose=0)
        return time.perf_counter() - start

    yield epoch


@contextmanager
def _torch_epochs(python: str, name: str, split: Split) -> Iterator[Callable[[], float]]:
    """One epoch of the model in PyTorch, in its own process: PyTorch and TensorFlow each start their own threads."""
    source = f"from __future__ import annotations\n{inspect.getsource(torch_loop)}"
    with tempfile.TemporaryDirectory() as folder:
        pixels = Path(folder) / "pixels"
        pixels.write_bytes(np.ascontiguousarray(split.images).tobytes())
        call = f"torch_loop({name!r}, {str(pixels)!r}, {split.images.shape}, {RECIPE.batch_size})"
        command = [python, "-W", "ignore", "-c", f"{source}\n{call}"]
        # Threads that wait actively would slow PyTorch down if other work needs the cores.
        passive = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with subprocess.Popen(command, env=passive, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            to, answers = process.stdin, process.stdout

            def epoch() -> float:
                to.write("epoch\n")
                return float(answers.readline())

            yield epoch
            to.close()


def torch_loop(name: str, pixels: str, shape: tuple[int, int, int], batch_size: int) -> None:
    """Train one epoch for each line of stdin, and print its seconds. Needs only PyTorch."""
    import os
    import sys
    import time

    import torch
    from torch import nn

    class Resize(nn.Module):
        def __init__(self, size: int, channels: int) -> None:
            super().__init__()
            self.size, self.channels = size, channels

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            resized = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
            return resized.expand(-1, self.channels, -1, -1) / 255

    def compact() -> nn.Module:
        layers: list[nn.Module] = [Resize(256, 1)]
        filters = (1, 8, 8, 8, 32, 32, 32, 64)
        for block in range(1, 8):
            layers += [nn.Conv2d(filters[block - 1], filters[block], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Dropout2d(0.1)] if block > 3 else []
        layers += [nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 1)]
        return nn.Sequential(*layers)

    def shallow() -> nn.Module:
        layers: list[nn.Module] = [Resize(64, 3), nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1), nn.Flatten()]
        layers += [nn.Linear(14 * 14 * 64, 128), nn.ReLU(), nn.Linear(128, 1)]
        return nn.Sequential(*layers)

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_flush_denormal(True)  # as TensorFlow does
    layout = torch.channels_last  # twice as fast here as PyTorch's default
    model = {"compact": compact, "shallow": shallow}[name]().to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=5e-4)
    loss_of = nn.BCEWithLogitsLoss()
    with open(pixels, "rb") as file:
        images = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).reshape(shape)
    labels = (torch.arange(shape[0]) % 2).float()[:, None]
    for _ in sys.stdin:
        start = time.perf_counter()
        order = torch.randperm(shape[0])
        for first in range(0, shape[0] - batch_size + 1, batch_size):
            take = order[first : first + batch_size]
            batch = images[take][:, None].float().contiguous(memory_format=layout)
            loss = loss_of(model(batch), labels[take])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(time.perf_counter() - start, flush=True)


def _python_with_torch() -> str | None:
    """This interpreter or that of BENCH_TORCH_PYTHON, the first one that has PyTorch."""
    for python in (sys.executable, os.environ.get("BENCH_TORCH_PYTHON")):
        find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
        if python and subprocess.run([python, "-c", find], check=False).returncode == 0:
            return python
    return None


def _full_resolution() -> tuple[list[bytes], str]:
    """Real files in full resolution if they are beside the checkout, else enlarged phantom images."""
    sample = Path(__file__).resolve().parents[2] / "shared" / "data" / "chest_xray_fullres_sample.zip"
    if sample.is_file():
        with files.in_archive(sample) as listed:
            return [listed.read(name) for name in listed.names if name.endswith(".jpeg")], "the Kermany set"
    enlarged = [cv2.resize(one, (1_300, 1_000), interpolation=cv2.INTER_CUBIC) for one in _renders(64)]
    return [cv2.imencode(".jpeg", one, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() for one in enlarged], "the phantom"


def _renders(n_images: int) -> list[Any]:
    return [one.image for patient in phantom.plan(n_images, seed=1) for one in phantom.render(patient)][:n_images]


def _table_of_files(folder: Path, contents: Sequence[bytes], n_images: int) -> pd.DataFrame:
    """A table of `n_images` images that uses a few files in turn, each with a small mask."""
    for number, content in enumerate(contents):
        (folder / f"{number}.jpeg").write_bytes(content)
        height, width = decode.decode(content).shape
        mask = np.zeros((height // 4, width // 4), np.uint8)
        mask[len(mask) // 4 : -len(mask) // 4] = 255
        cv2.imwrite(str(folder / f"{number}-mask.png"), mask)
    file_numbers = [number % len(contents) for number in range(n_images)]
    return pd.DataFrame(
        {
            "image_id": [f"{number:06}" for number in range(n_images)],
            "uri": [str(folder / f"{number}.jpeg") for number in file_numbers],
            "lung_mask_uri": [str(folder / f"{number}-mask.png") for number in file_numbers],
            "sha256": [workspace.sha256_bytes(contents[number]) for number in file_numbers],
            "label": 0,
            "split": "train",
            "weight": 1.0,
            "repeats": 1,
        }
    )


def _write_store(
    splits: pd.DataFrame, folder: Path, workers: int, preparation: geometry.Preparation = PREPARATION
) -> float:
    """Write a store, and return the seconds it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as resume:
        path = folder / f"{workers}.zarr"
        preprocess.write_store(splits, path, preparation, workers=workers, attributes={}, resume=Path(resume))
    return time.perf_counter() - start


def _by_patient(groups: Any, share: float) -> tuple[Any, Any]:
    from sklearn.model_selection import GroupShuffleSplit

    first, second = next(GroupShuffleSplit(1, test_size=share, random_state=1).split(groups, groups=groups))
    return first, second


def _split(images: Any, labels: Any, rows: Any) -> Split:
    chosen = labels[rows].astype(np.int8)
    balanced = np.where(chosen == 1, 0.5 / chosen.mean(), 0.5 / (1 - chosen.mean())).astype(np.float32)
    ones = np.ones(len(rows), np.int16)
    return Split(images[rows], chosen, balanced, ones, rows.astype(str))


def _report(name: str, y_true: Any, y_score: Any) -> None:
    low, high = ranking.auc_interval(y_true, y_score)
    print(f"phantom: {name}: AUC {ranking.roc_auc(y_true, y_score):.3f} [{low:.3f}, {high:.3f}], n = {len(y_true)}")


def bench_serve() -> None:
    """The service with 32 clients, all films good, and one in ten files bad; needs a finished run in this folder."""
    if not Path("models/predictor").is_dir() or not Path("reports/predictions.csv").is_file():
        print("serve: no finished run in this folder, skipped; make repro makes one")
        return
    load.report("models/predictor", seconds=60, clients=32)


def bench_saliency() -> None:
    """All saliency methods of the finished run in this folder, and their speed beside other packages."""
    saliency.full_table(Path())


BENCHES = {
    "preprocess": bench_preprocess,
    "lungs": bench_lungs,
    "memory": bench_memory,
    "input": bench_input,
    "training": bench_training,
    "head": bench_head,
    "phantom": bench_phantom,
    "predict": bench_predict,
    "unusual": unusual.main,
    "serve": bench_serve,
    "saliency": bench_saliency,
    "search": search.cost,
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHES)
    print(f"{os.cpu_count()} cores")
    for name in names:
        BENCHES[name]()


if __name__ == "__main__":
    main()
