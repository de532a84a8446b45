"""The images that recipes are judged on: taken unlike their class, of patients that nothing is learnt from."""

import cv2
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from benchmarks import recipes


def splits(n_patients: int = 200, *, seed: int = 0) -> pd.DataFrame:
    """Two images of each patient; pneumonias are less sharp, and nothing else tells the classes apart."""
    rng, number = np.random.default_rng(seed), np.arange(2 * n_patients)
    label = (number // 2) % 3 % 2
    return pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in number],
            "patient_id": [f"p{row // 2}" for row in number],
            "sha256": [f"file {row}" for row in number],
            "look_alike": "",
            "label": label,
            "split": np.where(number // 2 < 20, "test", np.where(number // 2 < 60, "val", "train")),
            "mean": rng.normal(size=len(number)),
            "sharpness": rng.normal(size=len(number)) - 2 * label,
        }
    )


def roles(table: pd.DataFrame) -> pd.Series:
    return recipes.roles(table, table.set_index("image_id")[["mean", "sharpness"]], seed=1)


@pytest.mark.slow
def test_who_judges_teaches_nothing_and_test_takes_no_part() -> None:
    table = splits()
    role = roles(table)
    assert (role[table["split"] == "test"] == "").all()
    assert set(role) == {"", "train", "val", "judge"}
    patients = {name: set(table["patient_id"][role == name]) for name in ("train", "val", "judge")}
    assert not patients["judge"] & (patients["train"] | patients["val"])
    assert not patients["train"] & patients["val"]
    # Patients that do not judge keep all their images, the unusual ones too: without them validation would be easier.
    others = ~table["patient_id"].isin(patients["judge"]) & (table["split"] != "test")
    assert (role[others] == table["split"][others]).all()
    assert set(role[~others]) == {"", "judge"}


@pytest.mark.slow
def test_the_images_that_judge_were_taken_as_the_other_class_is() -> None:
    table = splits()
    role = roles(table)
    judges = table[role == "judge"]
    sharpness = judges.groupby("label")["sharpness"].mean()
    assert sharpness[1] > sharpness[0], "in the class it is the other way round, by 2"
    known = table[table["split"] != "test"]["label"].value_counts()
    for label, share in recipes.UNUSUAL.items():
        assert 0.2 < (judges["label"] == label).sum() / (share * known[label]) < 0.8


def test_measures_tell_how_an_image_was_taken() -> None:
    image = np.random.default_rng(0).integers(60, 200, (64, 64)).astype(np.uint8)
    framed, soft = image.copy(), cv2.GaussianBlur(image, (0, 0), 2)
    framed[:12] = 0
    known, other, blurred = (
        recipes.acquisition_measures(image),
        recipes.acquisition_measures(framed),
        recipes.acquisition_measures(soft),
    )
    assert blurred["sharpness_0"] < known["sharpness_0"]
    assert blurred["contrast"] < known["contrast"]
    assert other["top_mean"] == 0 < known["top_mean"]
    assert other["bottom_mean"] == known["bottom_mean"]
    assert other["black"] == 12 / 64


def test_a_recipe_is_not_run_twice_under_another_name() -> None:
    known = dict.fromkeys(recipes.SAME, "a") | {"recipe": "plain"}
    table = pd.DataFrame([known])
    assert recipes._name_in_table(table, known | {"recipe": "another"}) == "plain"
    for name in recipes.SAME:
        assert recipes._name_in_table(table, known | {name: "b"}) is None
    assert recipes._name_in_table(table.head(0), known) is None


def test_the_table_holds_recipes_of_distinct_settings() -> None:
    table = recipes._table()
    assert len(table) > 0
    assert not table.duplicated(recipes.SAME).any()
    assert (table["auc_low"] < table["auc"]).all()
    assert (table["auc"] < table["auc_high"]).all()


def test_every_recipe_changes_known_settings() -> None:
    for settings in recipes.RECIPES.values():
        values = recipes.results.params_with(settings)  # refuses what the stages would
        for name, value in settings.items():
            section, key = name.split(".")
            assert values[section][key] == value
    with pytest.raises(ValidationError):
        recipes.results.params_with({"train.keep": "lst"})


def test_the_table_names_each_recipe_once_and_by_what_it_does() -> None:
    table = recipes._table()
    assert not table.duplicated(["data", "model", "weights", "recipe", "seed", "judges"]).any()
    for row in table.itertuples():
        settings = {**recipes.base(row.model), **recipes.RECIPES[row.recipe]}
        assert row.digest in {recipes.results.recipe(settings, earlier=earlier) for earlier in (True, False)}
