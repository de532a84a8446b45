"""What people and devices write is read as they mean it, is not known, or is not understood; it is never guessed."""

import pytest

from pneumonia import UserError
from pneumonia.data import columns

AGES = {
    "34": ("034Y", "34", "34.0", "34 years", "34 y/o", "34yo", "34-year-old", " 34 Years old ", "34 yrs."),
    "0.5": ("006M", "6 months", "6 mo", "0,5", "0.5"),
    "1.5": ("018M", "1 year 6 months", "1y6m", "1 year, 6 months", "1 year and 6 months"),
    "0.0383": ("002W", "2 weeks", "2 wks"),
    "0.0274": ("010D", "10 days"),
    "0": ("000Y", "0"),
    "104": ("104Y",),
    "58.5": ("58,5", "58.5"),
    "90": ("90+", "90 +", "90 years +", "> 90", "≥90", "90 and older", "over 90"),
    "": ("", "nan", "NaN", "None", "NA", "N/A", "unknown", "?", "-", "60-69", "60–69", "60 to 69 years", "18+", "< 1"),
    None: (
        "old",
        "-34Y",
        "411Y",
        "1956-03-01",
        "01.03.1956",
        "Oct-19",
        "34 apples",
        "1e2",
        "Y",
        "58M",
        "58F",
        "6M",
        "58 m",
        "58W",
    ),
}


@pytest.mark.parametrize(("written", "years"), [(text, years) for years, texts in AGES.items() for text in texts])
def test_age_is_in_years(written: str, years: str | None) -> None:
    assert columns.age(written) == years


SEXES = {
    "F": ("F", "f", "female", "Female", "W", "woman"),
    "M": ("M", "male", "Male ", "man"),
    "": ("", "O", "other", "unknown", "nan"),
    None: ("0", "1", "2", "P"),
}


@pytest.mark.parametrize(("written", "sex"), [(text, sex) for sex, texts in SEXES.items() for text in texts])
def test_sex_is_a_letter_and_a_number_is_not_understood(written: str, sex: str | None) -> None:
    assert columns.sex(written) == sex


def test_views_of_one_meaning_have_one_name_and_other_text_is_not_changed() -> None:
    written = ("PA", "pa ", "Posteroanterior", "AP", "ap", "lateral", "AP Supine", "LL", "None", "?")
    expected = ("PA", "PA", "PA", "AP", "AP", "LATERAL", "AP Supine", "LL", "", "")
    assert tuple(map(columns.view, written)) == expected


LABELS = {
    0: ("normal", "NORMAL ", "0", "0.0", "0,0", "0.00", "False", "false"),
    1: ("Pneumonia", "1", "1.0", "True", "TRUE"),
    None: ("", "yes", "no", "2", "0.5", "1.5", "10", "nan", "sick", "bacteria", "10.0"),
}


@pytest.mark.parametrize(("written", "label"), [(text, label) for label, texts in LABELS.items() for text in texts])
def test_only_what_means_one_class_is_a_label(written: str, label: int | None) -> None:
    assert columns.label(written) == label


def test_a_split_has_synonyms() -> None:
    assert {columns.split(text) for text in ("valid", "Validation", "dev", "eval", "VAL ", "val_set")} == {"val"}
    assert {columns.split(text) for text in ("train", "Training", "train set", "TRAIN_DATA", "images/train")} == {
        "train"
    }
    assert {
        columns.split(text) for text in ("test", "TESTING", "test-set", "Test  Images", "chest_xray_test", "testset")
    } == {"test"}
    assert {
        columns.split(text) for text in ("images", "data set", "set", "trainval", "train 1", "testosterone", "x_train")
    } == {None}
    assert {columns.split(text) for text in ("", "nan", "None")} == {""}
    assert columns.split("holdout") is None


def test_further_names_of_a_class_join_the_known_ones_in_any_case() -> None:
    names = columns.class_names({"normal": [" Healthy", "No Finding"], "pneumonia": ["SICK"]})
    assert names == columns.CLASSES | {"healthy": 0, "no finding": 0, "sick": 1}
    assert columns.class_names({}) == columns.CLASSES


def test_numbers_may_be_given_the_other_class() -> None:
    assert columns.class_names({"normal": ["1"], "pneumonia": ["0"]})["1"] == 0


def test_a_name_of_both_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"^fetch\.classes: 'sick' is a name of both classes; keep one$"):
        columns.class_names({"normal": ["sick"], "pneumonia": ["Sick "]})


def nobody(*identifiers: str) -> set[str]:
    return columns.placeholders(identifiers)


@pytest.mark.parametrize(
    "text",
    [
        *("nan", "NaN", "None", "NA", "n/a", "null", "<NA>", "NaT", "unknown", "?", "-", "0", "000"),
        *("ANONYMOUS", "anon", "Anonymized", "ANONYMOUS^PATIENT", "Anonymous Patient", "de-identified", "no id", "xxx"),
    ],
)
def test_a_word_for_nobody_is_no_patient(text: str) -> None:
    assert nobody(text, "p1", "p2") == {text}


@pytest.mark.parametrize("text", ["007", "1", "1e5", "X", "A", "ANON007", "patient1", "Ann", "P0", "10"])
def test_an_identifier_is_a_patient(text: str) -> None:
    assert nobody(text, text, "p1") == set()


def test_zero_is_a_patient_where_patients_are_counted_from_zero() -> None:
    assert nobody("0", "0", "1", "2") == set()
    assert nobody("000", "001") == set()
    assert nobody("0", "000", "001") == {"0"}


def test_an_identifier_of_more_than_half_of_all_files_is_no_patient() -> None:
    assert nobody(*["X1"] * 10, *"abcdefghi") == {"X1"}
    assert nobody(*["X1"] * 10, *"abcdefghij") == set()  # half is not most
    assert nobody(*["X1"] * 9) == set()  # a patient of a small set
    assert nobody(*["X1"] * 10, *[""] * 10) == set()


def test_an_identifier_that_a_spreadsheet_has_rounded_is_recognised() -> None:
    assert columns.is_shortened("1.23457E+12")
    assert columns.is_shortened("1,2E+15")
    assert columns.is_shortened("1E+12")
    assert columns.is_shortened("1e+12")
    assert not any(map(columns.is_shortened, ("1e5", "1E5", "007", "12E+3a", "")))


def test_a_number_with_the_zero_of_another_program_is_the_same_patient() -> None:
    assert columns.patients(["7", "7.0", "", "P3"]) == ["7", "7", "", "P3"]
    assert columns.patients(["7.0", "7.1"]) == ["7.0", "7.1"]  # seventh place, second patient
    assert columns.patients(["007", "7", "7.00"]) == ["007", "7", "7"]
