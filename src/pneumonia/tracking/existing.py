"""Whether there is a store, without MLflow, which takes seconds to import."""

from __future__ import annotations

import os
from pathlib import Path


def has_store(root: Path) -> bool:
    """Whether there is a store; `runs.open_store` would make one."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (root / "mlruns" / "mlflow.db").is_file()
