"""Files that were changed after their stage wrote them: each is refused in one line, before it is used."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import zarr
from onnx import TensorProto, external_data_helper, helper
from ruamel.yaml import YAML

from pneumonia import UserError, outs
from pneumonia.data import store, tables
from pneumonia.data.predictions import read_predictions
from pneumonia.models import predictor
from stages import run
from tests import predictors
from tests.conftest import ROOT

pytestmark = pytest.mark.fault(kind="tampering")

Change = Callable[[Path], Any]
UNNOTICED = "used without a word"


def row(*values: Any, injected: str, **fields: str) -> Any:
    """A parameter that is a row of the table; `injected` is also its name."""
    return pytest.param(*values, marks=pytest.mark.fault(injected=injected, **fields), id=injected)


# --- outs of a finished run -------------------------------------------------------------------------------------------

TABLE = pd.DataFrame(
    {
        "image_id": [f"i{number}" for number in range(6)],
        "sha256": [f"{number:064x}" for number in range(6)],
        "patient_id": ["p0", "p1", "p2", "p3", "p4", "p5"],
        "split": ["train", "train", "val", "val", "test", "test"],
        "label": [0, 1, 0, 1, 0, 1],
        "weight": 1.0,
        "repeats": 1,
    }
)
PREDICTIONS = TABLE.drop(columns=["weight", "repeats"]).iloc[2:].assign(score=[0.1, 0.6, 0.7, 0.8])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro`: the outs of the real dvc.yaml, the smallest ones that are of their kind."""
    root = tmp_path_factory.mktemp("finished")
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    made = {name: [*stage.get("outs", ()), *stage.get("metrics", ())] for name, stage in stages.items()}
    read = {name: [dep for dep in stage["deps"] if not dep.endswith(".py")] for name, stage in stages.items()}
    short = {name: {"deps": read[name], "outs": made[name]} for name in stages}  # to read it takes a tenth of the time
    (root / "dvc.yaml").write_text(json.dumps({"stages": short}))
    for out in (out for names in made.values() for out in names):
        path = root / out
        if path.suffix == ".csv":
            tables.write_table(PREDICTIONS if path.name == "predictions.csv" else TABLE, path)
        elif path.suffix == ".json":
            tables.write_json({"learning_rate": 0.001, "threshold": 0.5, "model_sha256": "5e"}, path)
        elif path.suffix != ".zarr" and path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(range(256)))
        else:
            path.mkdir(parents=True)
            (path / "a.bin").write_bytes(bytes(range(256)))
    group = store.create_store(root / "data/images.zarr", {"digest": tables.data_digest(TABLE)})
    for split in tables.SPLITS:
        part = TABLE[TABLE["split"] == split]
        images, _ = store.create_split(group, split, part, size=8, with_lungs=False)
        images[:] = np.arange(len(part) * 64, dtype=np.uint8).reshape(-1, 8, 8) + 1
    predictors.write(root / "models/predictor")
    entries = {
        name: {"outs": [{"path": out, "hash": "md5", "md5": outs.digest(root / out)} for out in names]}
        for name, names in made.items()
    }
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": entries}))
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `finished`, the current folder."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def end_of(stage: str) -> str:
    """How `python -m stages.STAGE` ends; empty if it ran."""
    code = compile("def main() -> None: ran.append(True)", f"stages/{stage}.py", "exec")
    names: dict[str, Any] = {"ran": []}
    exec(code, names)
    try:
        run(names["main"])
    except SystemExit as end:
        assert not names["ran"], "it was checked after the stage"
        return str(end.code)
    assert names["ran"]
    return ""


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace(path: Path) -> None:
    path.write_bytes(b"of another run")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def edit_table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    return lambda path: tables.write_table(change(tables.read_table(path)), path)


def edit_json(**values: Any) -> Change:
    return lambda path: tables.write_json(tables.read_json(path) | values, path)


def of(name: str, change: Change) -> Change:
    """A change of one file in a folder."""
    return lambda path: change(path / name)


def edit_array(name: str, value: Any) -> Change:
    """The first value of an array of the image store becomes another one."""

    def edit(path: Path) -> None:
        array: Any = zarr.open_group(path, mode="r+")[name]
        array[(0,) * array.ndim] = value

    return edit


def set_first(column: str, value: Any) -> Change:
    return edit_table(lambda table: table.astype({column: object}).assign(**{column: [value, *table[column][1:]]}))


CHANGED_OUTS = [
    ("validate", "data/raw", of("a.bin", flip_a_bit), "a bit of the archive flipped", "as now, but only for a film"),
    ("validate", "data/manifest.csv", set_first("label", 1), "a label flipped", UNNOTICED),
    ("rebalance", "data/valid.csv", set_first("patient_id", "p9"), "a patient identifier changed", UNNOTICED),
    ("preprocess", "data/splits.csv", set_first("split", "test"), "a train image moved to test", UNNOTICED),
    ("tune", "data/images.zarr", edit_array("train/images", 99), "a pixel changed", UNNOTICED),
    ("tune", "data/backbone", of("a.bin", flip_a_bit), "a bit of the weights flipped", UNNOTICED),
    ("train", "data/images.zarr", edit_array("train/labels", 1), "a label flipped", UNNOTICED),
    ("train", "data/images.zarr", edit_array("train/image_ids", "i9"), "an image_id changed", UNNOTICED),
    ("train", "data/images.zarr", edit_array("train/weights", 9), "a weight changed", UNNOTICED),
    ("train", "data/images.zarr", of("train/images/c/0/0/0", Path.unlink), "a chunk removed", "black images, no word"),
    ("train", "data/images.zarr", of("train/images/c/0/0/0", cut), "a chunk cut", "a traceback"),
    ("train", "data/images.zarr", of("zarr.json", flip_a_bit), "a bit of the attributes flipped", UNNOTICED),
    ("train", "data/images.zarr", of("more", Path.touch), "a file added", UNNOTICED),
    ("train", "reports/tune/best.json", edit_json(learning_rate=9.0), "another learning rate", UNNOTICED),
    ("evaluate", "data/images.zarr", edit_array("test/images", 99), "a pixel of test changed", UNNOTICED),
    ("evaluate", "data/splits.csv", set_first("label", 1), "a label flipped", UNNOTICED),
    ("evaluate", "data/splits.csv", edit_table(lambda table: table[:-1]), "a row removed", "a traceback"),
    ("evaluate", "data/external.csv", set_first("patient_id", "p9"), "a patient of an external test", "did not exist"),
    ("evaluate", "models/model.keras", replace, "another network", "evaluated without a word, AUC .108"),
    ("evaluate", "models/run.json", edit_json(model_sha256="6f"), "the digest of another model", UNNOTICED),
    ("evaluate", "models/model.keras", Path.unlink, "removed", "a traceback"),
    ("explain", "data/boxes.csv", edit_table(lambda table: table[1:]), "a box removed", UNNOTICED),
    ("explain", "models/model.keras", replace, "another network", UNNOTICED),
    ("explain", "reports/predictions.csv", set_first("label", 1), "a label flipped", UNNOTICED),
    ("promote", "reports/metrics.json", edit_json(threshold=0.4), "another threshold", UNNOTICED),
    ("export", "reports/evaluation.json", edit_json(level=0.5), "another level of the intervals", UNNOTICED),
    ("export", "reports/rebalance.json", edit_json(splits={}), "another count of patients", UNNOTICED),
    ("export", "reports/predictions.csv", edit_table(lambda table: table[::-1]), "rows in another order", UNNOTICED),
    ("promote", "models/model.keras", replace, "another network", "registered under the SHA of the original"),
    ("promote", "models/predictor", of("predictor.json", edit_json(caution="")), "predictor.json edited", UNNOTICED),
    ("promote", "reports/predictions.csv", edit_table(lambda table: table[:-1]), "a row removed", UNNOTICED),
    (
        "promote",
        "reports/predictions.csv",
        edit_table(lambda table: pd.concat([table, table[:1]])),
        "a row duplicated",
        UNNOTICED,
    ),
    (
        "promote",
        "reports/predictions.csv",
        edit_table(lambda table: table.assign(score=table["label"])),
        "perfect scores",
        UNNOTICED,
    ),
    ("promote", "reports/predictions.csv", set_first("score", "high"), "a score as text", "a traceback"),
    ("promote", "reports/predictions.csv", set_first("score", ""), "a score removed", "a traceback"),
    (
        "promote",
        "reports/predictions.csv",
        edit_table(lambda table: table.drop(columns="score")),
        "a column removed",
        "a traceback",
    ),
    ("promote", "reports/explain.json", edit_json(threshold=0.9), "other scores of the maps", UNNOTICED),
    ("promote", "reports/validation.json", edit_json(threshold=0.9), "another count of images", UNNOTICED),
    ("promote", "reports/saliency", of("a.bin", flip_a_bit), "a picture changed", UNNOTICED),
    ("promote", "reports/plots", of("a.bin", replace), "a figure exchanged", UNNOTICED),
]


@pytest.mark.fault(where="all stages, run by hand", injected="nothing", before="as now", now="each stage begins")
def test_a_stage_whose_inputs_are_unchanged_begins(project: Path) -> None:
    stages = json.loads((project / "dvc.yaml").read_text())["stages"]
    assert len(stages) == 12
    assert {stage: end_of(stage) for stage in stages} == dict.fromkeys(stages, "")


@pytest.mark.fault(now="one line with the stage that makes it again; the stage does not begin")
@pytest.mark.parametrize(
    ("stage", "path", "change"),
    [
        row(*case[:3], injected=f"{case[1]}: {case[3]}", where=f"{case[0]}, run by hand", before=case[4])
        for case in CHANGED_OUTS
    ],
)
def test_a_stage_begins_only_if_what_it_reads_is_as_its_stage_wrote_it(
    stage: str, path: str, change: Change, project: Path
) -> None:
    change(project / path)
    message = end_of(stage)
    assert message.startswith(f"ERROR: {path} is ")
    assert "dvc repro" in message
    assert "\n" not in message


# --- predictions without a digest -------------------------------------------------------------------------------------

SOUND = PREDICTIONS.to_csv(index=False)

CHANGED_PREDICTIONS = {
    "a row duplicated": (edit_table(lambda table: pd.concat([table, table[:1]])), UNNOTICED),
    "a score as text": (set_first("score", "high"), "a traceback"),
    "a score removed": (set_first("score", ""), "a traceback"),
    "a score of NaN": (set_first("score", "nan"), "a traceback"),
    "a score of 1.5": (set_first("score", 1.5), UNNOTICED),
    "a score of infinity": (set_first("score", "inf"), "a traceback"),
    "a label of 2": (set_first("label", 2), f"{UNNOTICED}, or not comparable"),
    "an unknown split": (set_first("split", "dev"), f"{UNNOTICED}, or not comparable"),
    "no column score": (edit_table(lambda table: table.drop(columns="score")), "a traceback"),
    "all rows removed": (edit_table(lambda table: table[:0]), "read as lost predictions"),
    "an empty file": (lambda path: path.write_bytes(b""), "a traceback"),
    "bytes that are no text": (lambda path: path.write_bytes(b"\xff\xfe\x00" * 9), "a traceback"),
    "a row with more cells": (lambda path: path.write_text(f"{SOUND}1,2,3,4,5,6,7,8,9\n"), "a traceback"),
}


@pytest.mark.fault(where="predictions of a version, without a digest", now="one line with the problem and the remedy")
@pytest.mark.parametrize(
    "change", [row(change, injected=name, before=before) for name, (change, before) in CHANGED_PREDICTIONS.items()]
)
def test_predictions_that_evaluate_cannot_have_written_are_refused(change: Change, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(SOUND)
    pd.testing.assert_frame_equal(read_predictions(path), PREDICTIONS.reset_index(drop=True))
    change(path)
    with pytest.raises(UserError, match=r"predictions\.csv .*; dvc repro") as refusal:
        read_predictions(path)
    assert "\n" not in str(refusal.value)


# --- predictors -------------------------------------------------------------------------------------------------------


def edit_facts(change: Callable[[dict[str, Any]], Any]) -> Change:
    def edit(folder: Path) -> None:
        facts = json.loads((folder / predictor.FACTS).read_text())
        change(facts)
        (folder / predictor.FACTS).write_text(json.dumps(facts))

    return edit


def as_exported(folder: Path) -> Path:
    """A predictor folder with all digests that the stage `export` writes."""
    predictors.write(folder)

    def sign(facts: dict[str, Any]) -> None:
        facts["digests"][predictor.FACTS] = predictor.facts_digest(facts)

    edit_facts(sign)(folder)
    return folder


def edit_network(change: Callable[[Any], Any]) -> Change:
    """Another network, with the digest of the new file."""

    def edit(folder: Path) -> None:
        model = onnx.load_from_string(predictors.network())
        content = change(model) or model.SerializeToString()
        predictors.write(folder, content)

    return edit


def rename(model: Any, old: str, new: str) -> None:
    for names in (*(node.input for node in model.graph.node), *(node.output for node in model.graph.node)):
        names[:] = [new if name == old else name for name in names]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name


def take_weights_from_another_file(model: Any) -> None:
    (middle,) = (one for one in model.graph.initializer if one.name == "middle")
    external_data_helper.set_external_data(middle, "weights.bin", offset=0, length=4)
    middle.ClearField("raw_data")
    Path("weights.bin").write_bytes(np.float32(0).tobytes())


def add_output(model: Any) -> None:
    model.graph.output.append(helper.make_tensor_value_info("logit", TensorProto.FLOAT, None))


REFUSED = "one line: damaged or changed"
CHANGED_PREDICTORS = {
    "a lower threshold": (
        edit_facts(lambda facts: facts["operating_points"]["youden"].update(threshold=0.1)),
        UNNOTICED,
    ),
    "another calibration": (edit_facts(lambda facts: facts["calibration"].update(slope=-1.0)), UNNOTICED),
    "labels exchanged": (edit_facts(lambda facts: facts.update(labels=["pneumonia", "normal"])), UNNOTICED),
    "another size of the images": (edit_facts(lambda facts: facts["preparation"].update(size=16)), UNNOTICED),
    "no caution": (edit_facts(lambda facts: facts.update(caution="")), UNNOTICED),
    "a key removed": (edit_facts(lambda facts: facts.pop("model")), "as now"),
}
UNSIGNED = {
    "a threshold of NaN": (
        lambda folder: predictors.write(
            folder, operating_points={"youden": predictors.FACTS["operating_points"]["youden"] | {"threshold": np.nan}}
        ),
        "every image normal, no word",
    ),
    "a calibration of infinity": (
        lambda folder: predictors.write(folder, calibration={"slope": np.inf, "bias": 0.0}),
        "a probability of 1 for each image",
    ),
    "no operating points": (lambda folder: predictors.write(folder, operating_points=7), "a traceback"),
    "a preparation that is a number": (lambda folder: predictors.write(folder, preparation=7), "a traceback"),
    "digests that are a list": (lambda folder: predictors.write(folder, digests=["a"]), "as now"),
    "network: half of the file": (edit_network(lambda model: predictors.network()[:200]), "as now"),
    "network: input of another name": (
        edit_network(lambda model: rename(model, "pixels", "x")),
        "one line for each image",
    ),
    "network: output of another name": (
        edit_network(lambda model: rename(model, "probability", "y")),
        "one line for each image",
    ),
    "network: a second output": (edit_network(add_output), UNNOTICED),
    "network: weights in another file": (edit_network(take_weights_from_another_file), "read from the current folder"),
}


@pytest.mark.fault(where="predict --model FOLDER", now=REFUSED)
@pytest.mark.parametrize(
    "change",
    [
        row(change, injected=f"predictor.json: {name}", before=before)
        for name, (change, before) in CHANGED_PREDICTORS.items()
    ],
)
def test_a_predictor_whose_facts_were_changed_is_refused(change: Change, tmp_path: Path) -> None:
    folder = as_exported(tmp_path / "predictor")
    assert predictor.Predictor(folder).facts["model"] == "toy"
    change(folder)
    with pytest.raises(UserError, match="is not as the stage export wrote it") as refusal:
        predictor.Predictor(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.fault(where="predict --model FOLDER, digests that fit or none", now=REFUSED)
@pytest.mark.parametrize(
    "change", [row(change, injected=name, before=before) for name, (change, before) in UNSIGNED.items()]
)
def test_a_predictor_that_cannot_answer_is_refused_when_it_is_opened(
    change: Change, in_project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(in_project / "predictor")
    with pytest.raises(
        UserError, match=r"(is damaged|cannot be opened|has the inputs and outputs) .*export"
    ) as refusal:
        predictor.Predictor(in_project / "predictor")
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


# --- Keras files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pneumonia.models import runtime, scoring
    from tests.toys import backbone_model

    runtime.start_keras(1)
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    scoring.save_model(backbone_model(), path)
    return path


def edit_members(change: Callable[[dict[str, bytes]], Any], **how: Any) -> Change:
    """A `.keras` file, which is a zip archive, with other members."""

    def edit(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        change(members)
        with zipfile.ZipFile(path, "w", **how) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return edit


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Change:
    def edit(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        change(config)
        members["config.json"] = json.dumps(config).encode()

    return edit_members(edit)


def add_layer(class_name: str, module: str = "keras.layers", registered: str | None = None, **config: Any) -> Change:
    """A layer of another class in the place of the first convolution."""

    def edit(whole: dict[str, Any]) -> None:
        layer = next(one for one in whole["config"]["layers"] if one["class_name"] == "Conv2D")
        layer |= {"class_name": class_name, "module": module, "registered_name": registered}
        layer["config"] = {"name": layer["config"]["name"], **config}

    return edit_config(edit)


def edit_weights(change: Callable[[Any], Any]) -> Change:
    """Other weights; `change` gets the HDF5 file."""

    def edit(members: dict[str, bytes]) -> None:
        import h5py

        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            change(file)
        members["model.weights.h5"] = content.getvalue()

    return edit_members(edit)


def a_dataset(file: Any) -> Any:
    """The kernel of the first convolution."""
    import h5py

    names: list[str] = []
    file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) and one.ndim == 4 else None)
    return file[names[0]]


def set_weight(value: float) -> Change:
    def edit(file: Any) -> None:
        a_dataset(file)[0, 0, 0, 0] = value

    return edit_weights(edit)


def link_weights_to_another_file(file: Any) -> None:
    import h5py

    name = a_dataset(file).name
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", name)


def inflate_weights(file: Any) -> None:
    name = a_dataset(file).name
    del file[name]
    file.create_dataset(name, (40_000, 40_000, 20, 4), "f4", chunks=(1000, 1000, 1, 1), compression="gzip")


def save_another(make: Callable[[Any, Any], Any]) -> Change:
    """A network of other inputs or outputs; `make` gets `keras` and its layers."""

    def edit(path: Path) -> None:
        import keras

        make(keras, keras.layers).save(path)

    return edit


def two_outputs(keras: Any, layers: Any) -> Any:
    pixels = layers.Input((None, None, 1), name="pixels")
    logit = layers.Dense(2, name="logit")(layers.GlobalAveragePooling2D()(pixels))
    return keras.Model(pixels, layers.Activation("softmax", name="probability")(logit))


def of_colour(keras: Any, layers: Any) -> Any:
    pixels = layers.Input((None, None, 3), name="pixels")
    logit = layers.Dense(1, name="logit")(layers.GlobalAveragePooling2D()(pixels))
    return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit))


def without_logit(keras: Any, layers: Any) -> Any:
    pixels = layers.Input((None, None, 1), name="pixels")
    return keras.Model(pixels, layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling2D()(pixels)))


class Hostile:
    """Its pickle makes a file."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def leave_the_weights_only(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        content = archive.read("model.weights.h5")
    path.write_bytes(content)


CODE = "os.system('touch executed')"
CHANGED_NETWORKS = {
    "a weight of NaN": (set_weight(np.nan), UNNOTICED),
    "a weight of infinity": (set_weight(np.inf), UNNOTICED),
    "two classes": (save_another(two_outputs), UNNOTICED),
    "colour images": (save_another(of_colour), UNNOTICED),
    "no layer logit": (save_another(without_logit), UNNOTICED),
    "the first half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "a traceback"),
    "an empty file": (lambda path: path.write_bytes(b""), "a traceback"),
    "a bit of the weights flipped": (flip_a_bit, "a traceback"),
    "an HDF5 file": (leave_the_weights_only, "a traceback"),
    "weights that are no HDF5": (
        edit_members(lambda members: members.update({"model.weights.h5": b""})),
        "one line of another library, without the file",
    ),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Hostile())), "a traceback"),
    "no weights": (edit_members(lambda members: members.pop("model.weights.h5")), "a traceback"),
    "no configuration": (edit_members(lambda members: members.pop("config.json")), "a traceback"),
    "a configuration that is no JSON": (
        edit_members(lambda members: members.update({"config.json": b"{"})),
        "a traceback",
    ),
    "a configuration of 100 MB in 100 kB": (
        edit_members(
            lambda members: members.update({"config.json": bytes(100 << 20)}), compression=zipfile.ZIP_DEFLATED
        ),
        "a traceback, after 100 MB were read",
    ),
    "weights of 512 GB that are all zero": (edit_weights(inflate_weights), "a traceback"),
    "weights in another file": (edit_weights(link_weights_to_another_file), "a traceback"),
    "a Lambda layer": (
        add_layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wAAAA==\n"}}),
        "a traceback",
    ),
    "a layer of another package": (add_layer("Popen", "subprocess", args=["touch", "executed"]), "a traceback"),
    "a registered class": (add_layer("Mine", "mine", registered="mine>Mine", code=CODE), "a traceback"),
    "a layer that loads a SavedModel": (add_layer("TFSMLayer", filepath="."), "a traceback"),
    "a layer that reads a file": (add_layer("StringLookup", vocabulary="/etc/passwd"), "a traceback"),
    "a download in the place of a layer": (
        add_layer("get_file", "keras.utils", origin="http://127.0.0.1:9/x", fname="x"),
        "a traceback",
    ),
    "a layer of a later Keras": (add_layer("FutureAttention"), "a traceback"),
}


@pytest.mark.slow
@pytest.mark.fault(where="model.keras, as evaluate loads it", now="one line, no code of the file is run")
@pytest.mark.parametrize(
    "change",
    [
        row(change, injected=f"model.keras: {name}", before=before)
        for name, (change, before) in CHANGED_NETWORKS.items()
    ],
)
def test_a_keras_file_that_is_no_network_of_this_project_is_refused(
    change: Change, keras_file: Path, in_project: Path
) -> None:
    from pneumonia.models import loading

    path = in_project / "model.keras"
    shutil.copyfile(keras_file, path)
    change(path)
    with pytest.raises(UserError, match=r"model\.keras cannot be used as a model: .*; dvc repro train") as refusal:
        loading.load_model(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600
    assert not Path("executed").exists()


@pytest.mark.slow
@pytest.mark.fault(
    where="model.keras, as evaluate loads it",
    injected="nothing",
    before="as now",
    now="loaded, also if its metadata names a later Keras",
)
def test_a_keras_file_of_this_project_is_loaded(keras_file: Path, tmp_path: Path) -> None:
    from pneumonia.models import loading

    shutil.copyfile(keras_file, tmp_path / "model.keras")
    edit_members(lambda members: members.update({"metadata.json": b'{"keras_version": "99.0"}'}))(
        tmp_path / "model.keras"
    )
    for path in (keras_file, tmp_path / "model.keras"):
        assert loading.load_model(path).name == "toy_backbone"


# --- weights of a backbone --------------------------------------------------------------------------------------------

BAD_WEIGHTS = {
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Hostile())),
    "an empty file": lambda path: path.write_bytes(b""),
    "half of the file": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a zip archive": lambda path: path.write_bytes(zip_of({"a": b"b"})),
    "an HDF5 file without layers": lambda path: edit_h5(path, lambda file: [file.pop(name) for name in list(file)]),
    "weights in another file": lambda path: edit_h5(path, link_weights_to_another_file),
    "a weight of NaN": lambda path: edit_h5(path, lambda file: a_dataset(file).__setitem__((0, 0, 0, 0), np.nan)),
    "another shape": lambda path: edit_h5(path, change_shape),
}


def zip_of(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return content.getvalue()


def edit_h5(path: Path, change: Callable[[Any], Any]) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        change(file)


def change_shape(file: Any) -> None:
    name = a_dataset(file).name
    del file[name]
    file[name] = np.zeros((1, 1, 1, 1), np.float32)


@pytest.fixture(scope="module")
def backbone_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pneumonia.models import runtime
    from tests.toys import backbone_model

    runtime.start_keras(1)
    path = tmp_path_factory.mktemp("weights") / "backbone.weights.h5"
    backbone_model().save_weights(path)
    return path


@pytest.mark.slow
@pytest.mark.fault(where="weights: PATH, as train loads it", now="one line, no code of the file is run")
@pytest.mark.parametrize(
    "change", [row(change, injected=f"weights: {name}", before="as now") for name, change in BAD_WEIGHTS.items()]
)
def test_weights_that_do_not_fit_are_refused(change: Change, backbone_weights: Path, in_project: Path) -> None:
    from pneumonia.models import backbones
    from tests.toys import backbone_model

    path = in_project / "backbone.weights.h5"
    shutil.copyfile(backbone_weights, path)
    backbones._load_weights(backbone_model(seed=2), str(path), "toy")
    change(path)
    with pytest.raises(UserError, match=r"^weights = .*backbone\.weights\.h5: ") as refusal:
        backbones._load_weights(backbone_model(seed=2), str(path), "toy")
    assert "\n" not in str(refusal.value)
    assert not Path("executed").exists()
