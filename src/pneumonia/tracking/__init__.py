"""The only package that uses MLflow.

MLflow reads its environment when it is imported. So it is set here, before any module of this package: no telemetry is
sent, and no code of a stored model is run.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 14 s; the default waits minutes for a dead server
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else each new store prints its migrations
