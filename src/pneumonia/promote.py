"""Decide whether a new model becomes champion: a pure function of two tables of validation scores."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from pneumonia import metrics


class Decision(NamedTuple):
    """What was decided and why.

    Attributes:
        promoted: the candidate becomes champion.
        reason: in plain words.
        auc: of the candidate, on the images compared.
        champion_auc: of the champion, on the same images; None where there was nothing to compare.
        n_common: images compared.
    """

    promoted: bool
    reason: str
    auc: float
    champion_auc: float | None
    n_common: int


def decide(candidate: pd.DataFrame, champion: pd.DataFrame | None, *, min_common: int) -> Decision:
    """Compare two models on validation images that neither has learnt from.

    Those are the images, by the SHA-256 of their file, in both models' validation predictions. Test is not
    looked at: a champion chosen on test would make its figures worthless.

    Args:
        candidate, champion: predictions (`sha256, split, label, score`); champion None = there is none yet.
        min_common: images of each class both must have validated on; fewer and the champion stays.
    """
    mine = _validation(candidate)
    if champion is None:
        auc = metrics.roc_auc(mine["label"], mine["score"])
        return Decision(True, "the first model of this data set", auc, None, len(mine))
    common = mine.join(_validation(champion)["score"].rename("score_champion"), how="inner")
    counts = common["label"].value_counts()
    if len(counts) < 2 or counts.min() < min_common:
        auc = metrics.roc_auc(mine["label"], mine["score"])
        found = int(counts.min()) if len(counts) == 2 else 0
        reason = (
            f"not comparable: both models validated on only {found} common images of the smaller class, "
            f"promote.min_common asks for {min_common}; the champion stays"
        )
        return Decision(False, reason, auc, None, len(common))
    auc = metrics.roc_auc(common["label"], common["score"])
    champion_auc = metrics.roc_auc(common["label"], common["score_champion"])
    p_value = metrics.delong_test(common["label"], common["score"], common["score_champion"])
    compared = (
        f"validation AUC {auc:.4f} against the champion's {champion_auc:.4f} "
        f"on {len(common)} common images (DeLong p = {p_value:.2g})"
    )
    if auc > champion_auc:
        return Decision(True, f"higher {compared}", auc, champion_auc, len(common))
    return Decision(False, f"not higher: {compared}; the champion stays", auc, champion_auc, len(common))


def confirm(champion: pd.DataFrame) -> Decision:
    """What to say of a model that is asked about again and is the champion already."""
    mine = _validation(champion)
    return Decision(True, "the champion already", metrics.roc_auc(mine["label"], mine["score"]), None, len(mine))


def _validation(predictions: pd.DataFrame) -> pd.DataFrame:
    val = predictions[predictions["split"] == "val"].drop_duplicates("sha256")
    return val.set_index("sha256")[["label", "score"]]
