"""What people and devices write into the cells of a table, the names of folders and the headers of files.

Each function takes text and returns the value that all stages read: of the class and the split, of the patient, and of
age, sex and view. Text that is not understood gives None, so that the caller can name its place; a value that is not
known is empty text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from pneumonia import UserError
from pneumonia.data import tables

CLASSES = {"normal": 0, "0": 0, "pneumonia": 1, "1": 1}
"""Names of a class, in a folder's name or in a table, in upper or lower case. `fetch.classes` adds others."""

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of a split, in upper or lower case; `split` also reads `train_images`, `Test Set` and the like."""

SUBTYPES = {
    **dict.fromkeys(("bacteria", "bacterial", "bacterial pneumonia"), "bacteria"),
    **dict.fromkeys(("virus", "viral", "viral pneumonia"), "virus"),
}
"""Names of a kind of pneumonia, in upper or lower case."""

MIN_SHARED = 10
"""Files with one identifier, from which on it may be a placeholder and not a patient."""

_ABOUT_SPLIT = r"(?:(?:sub|data)?sets?|data|im(?:age|g)s?|splits?|chest|x ?rays?|cxrs?)"
_SPLIT = re.compile(rf"(?:{_ABOUT_SPLIT} )*([^\W_]+?)(?: ?{_ABOUT_SPLIT})*")
_LIKE_SPLIT = re.compile(r"(.*[\W\d_])?(train|val|test)(ing|id|idation)?(([\W\d_]|train|val|test).*)?")

_UNKNOWN = {
    *("", "-", "--", "?", ".", "nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat", "unknown", "unk"),
    *("undefined", "missing", "not available", "not known", "not specified", "unspecified", "empty"),
}
_ANONYMOUS = re.compile(
    r"x{2,}|\*+|(patient|name|subject)?[ _^-]*(an(on|onymous|onym|onymized|onymised|onymi[sz]ed patient)|de-?identified"
    r"|pseudonymi[sz]ed|removed|redacted|deleted|hidden|masked|no ?name|no ?id|patient ?id|patient|name|subject|id)"
    r"[ _^-]*(patient|name|subject)?"
)
_SPREADSHEET_NUMBER = re.compile(r"\d+([.,]\d+)?E\+\d+", re.IGNORECASE)

_YEARS = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
_DICOM_AGE = re.compile(r"(?P<number>\d{3})(?P<unit>[DWMY])")
_NUMBER = r"\d{1,3}(?:[.,]\d+)?"
_UNIT = r"years?|yrs?|y|months?|mos?|mths?|m|weeks?|wks?|w|days?|d"
_AGE = re.compile(rf"({_NUMBER})(?:[ -]?(?:({_UNIT})\.?))?(?:[ -]*old|[ /]?o\.?)?")
_AGE_OF_PARTS = re.compile(rf"(?:{_NUMBER}[ -]?(?:{_UNIT})\.?(?:,| and)? ?){{2,}}(?:old)?")
_TOP_AGE = re.compile(
    r"(?:>=?|≥|over )? ?(\d{2,3}) ?(?:y|yrs?|years?)? ?(?:\+|(?:and|or) (?:older|over|more))? ?(?:y|yrs?|years?)?"
)
_RANGE = re.compile(rf"{_NUMBER} ?(?:-|–|to) ?{_NUMBER}(?: ?(?:{_UNIT}))?|(?:<=?|>=?|≤|≥) ?{_NUMBER}|{_NUMBER} ?\+")
MAX_AGE = 199
"""More is no age. Public sets have errors up to this; `evaluate` groups what is above 65 years."""

_SEX = {
    **dict.fromkeys(("f", "female", "woman", "girl", "w", "weiblich"), "F"),
    **dict.fromkeys(("m", "male", "man", "boy", "männlich"), "M"),
    **dict.fromkeys(("o", "other", "u", "d", "x"), ""),
}
_VIEWS = {
    **dict.fromkeys(("pa", "p.a.", "p-a", "posteroanterior", "postero-anterior", "posterior-anterior"), "PA"),
    **dict.fromkeys(("ap", "a.p.", "a-p", "anteroposterior", "antero-posterior", "anterior-posterior"), "AP"),
    **dict.fromkeys(("lat", "lateral"), "LATERAL"),
}


def key(text: str) -> str:
    """Text for comparison: without spaces around it, in lower case, letters with accents composed.

    macOS writes names in decomposed letters (NFD), most other programs in composed ones (NFC).
    """
    return unicodedata.normalize("NFC", text).strip().casefold()


def class_names(own: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """`CLASSES` with further names.

    Args:
        own: class -> names, as `fetch.classes`; a built-in name that it gives to the other class changes its meaning.

    Raises:
        UserError: a name of both classes.
    """
    labels = {name: label for label, name in tables.LABELS.items()}
    names: dict[str, int] = {}
    for one, others in own.items():
        for name in map(key, others):
            if names.setdefault(name, labels[one]) != labels[one]:
                raise UserError(f"fetch.classes: {name!r} is a name of both classes; keep one")
    return CLASSES | names


def label(text: str, classes: Mapping[str, int] = CLASSES) -> int | None:
    """The class of a cell: a name of `classes`, or 0 or 1 as a spreadsheet writes it (`1.0`, `1,0`, `True`).

    >>> label("Pneumonia "), label("0.0"), label("false"), label("yes")
    (1, 0, 0, None)
    """
    name = key(text)
    if name in classes:
        return classes[name]
    plain = {"false": "0", "true": "1"}.get(name, re.sub(r"[.,]0+$", "", name))
    return classes.get(plain) if plain in ("0", "1") else None


def split(text: str) -> str | None:
    """The split of a cell or a folder, empty if it is not known.

    >>> split("Training"), split("valid"), split("Test Set"), split("train_images"), split("nan"), split("fold 3")
    ('train', 'val', 'test', 'train', '', None)
    """
    words = _SPLIT.fullmatch(re.sub(r"[\W_]+", " ", key(text)).strip())
    return "" if is_unknown(text) else SPLITS.get(words[1]) if words else None


def is_like_split(text: str) -> bool:
    """Whether a word of a text is the name of a split, but not the text.

    >>> is_like_split("trainval"), is_like_split("train 1"), is_like_split("train-set"), is_like_split("Valerie")
    (True, True, False, False)
    """
    return bool(_LIKE_SPLIT.fullmatch(key(text))) and not split(text)


def is_unknown(text: str) -> bool:
    """Whether a cell says that its value is not known: empty, `nan`, `None`, `N/A`, `unknown`, `?`, …"""
    return key(text) in _UNKNOWN


def age(text: str) -> str | None:
    """Years, as text with three digits.

    Known forms: `58`, `58.5`, `58,5`, `058Y` and `006M` (DICOM), `58 years`, `58 y/o`, `7 months`, `2 years 3 months`.
    `58M` is not understood: months, or age and sex. So is `58W` (weeks, or the German letter for women).
    `90+` and `> 89` are 90 and 89: the privacy rules for old patients. Any other range is not known, because its
    middle may be in another age group. A date of birth is not understood.

    >>> age("058Y"), age("7 months"), age("58,5"), age("90+"), age("60-69"), age("nan"), age("58M")
    ('58', '0.583', '58.5', '90', '', '', None)
    """
    name = re.sub(r"\s+", " ", key(text))
    if is_unknown(name):
        return ""
    if dicom := _DICOM_AGE.fullmatch(name.upper()):
        return _years(int(dicom["number"]) * _YEARS[dicom["unit"].lower()])
    if (one := _AGE.fullmatch(name)) and (one[2] or not re.search(r"[a-z]", name)):
        if one[2] in ("m", "w"):
            return None
        return _years(_number(one[1]) * _YEARS[(one[2] or "y")[0]])
    if _AGE_OF_PARTS.fullmatch(name):
        parts = re.findall(rf"({_NUMBER})[ -]?({_UNIT})", name)
        return _years(sum(_number(number) * _YEARS[unit[0]] for number, unit in parts))
    if (top := _TOP_AGE.fullmatch(name)) and int(top[1]) >= 80:
        return _years(float(top[1]))
    return "" if _RANGE.fullmatch(name) else None


def sex(text: str) -> str | None:
    """`F` or `M`; empty if it is not known, or another value of DICOM. Numbers have no agreed meaning.

    >>> sex("female"), sex("m"), sex("O"), sex("1")
    ('F', 'M', '', None)
    """
    name = key(text)
    return "" if is_unknown(name) else _SEX.get(name)


def view(text: str) -> str:
    """`PA`, `AP` or `LATERAL`; other text is not changed.

    >>> view("pa"), view("Lateral"), view("AP supine"), view("None")
    ('PA', 'LATERAL', 'AP supine', '')
    """
    return "" if is_unknown(text) else _VIEWS.get(key(text), text.strip())


def subtype(text: str) -> str:
    """The kind of pneumonia under its one name; other text for comparison.

    >>> subtype("Viral Pneumonia"), subtype(" Bacterial"), subtype("Fungal")
    ('virus', 'bacteria', 'fungal')
    """
    return SUBTYPES.get(key(text), key(text))


DESCRIPTIONS: dict[str, Callable[[str], str | None]] = {"sex": sex, "age": age, "view": view}
"""What a table or a header may say about an image; none of it is needed."""


def patient(text: str) -> str:
    """A patient identifier; letters with accents are composed, because the same name may be written in both ways."""
    return unicodedata.normalize("NFC", text).strip()


def patients(texts: Iterable[str]) -> list[str]:
    """The patient identifiers of a column; `7.0` is `7`, as a column with empty cells is written by some programs.

    >>> patients(["7", "7.0", ""]), patients(["7.0", "7.1"])
    (['7', '7', ''], ['7.0', '7.1'])
    """
    identifiers = [patient(text) for text in texts]
    if any(re.fullmatch(r"\d+\.0*[1-9]\d*", one) for one in identifiers):
        return identifiers
    return [re.sub(r"^(\d+)\.0+$", r"\1", one) for one in identifiers]


def is_shortened(text: str) -> bool:
    """Whether a spreadsheet program has rounded a long identifier, so that different patients now have the same.

    >>> is_shortened("1.23457E+12"), is_shortened("1E+12"), is_shortened("1e5")
    (True, True, False)
    """
    return bool(_SPREADSHEET_NUMBER.fullmatch(text.strip()))


def placeholders(identifiers: Iterable[str]) -> set[str]:
    """The identifiers that name no patient.

    They are words such as `ANONYMOUS`, `unknown` or `nan`, and an identifier of more than half of all files, and of
    `MIN_SHARED` at least. `0` or `000` is a patient only if there is a `1` or `001` too.

    Args:
        identifiers: of each file; empty if a file has none.
    """
    counts = Counter(identifiers)
    return {
        identifier
        for identifier, n in counts.items()
        if identifier
        and (
            is_no_name(identifier)
            or (not identifier.strip("0") and f"{identifier[:-1]}1" not in counts)
            or (n >= MIN_SHARED and n > counts.total() / 2)
        )
    }


def is_no_name(text: str) -> bool:
    """Whether text says that a value is not known or was removed: `nan`, `unknown`, `ANONYMOUS`, `XXX`, …"""
    return is_unknown(text) or bool(_ANONYMOUS.fullmatch(key(text)))


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def _years(value: float) -> str | None:
    return f"{value:.3g}" if value <= MAX_AGE else None
