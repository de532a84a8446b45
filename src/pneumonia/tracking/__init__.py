"""The one package that knows MLflow.

MLflow reads its environment when it is imported, so it is set here, before any module of this package: nothing is sent
anywhere, and no code is run from a stored model.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 14 s; the default waits minutes for a dead server
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # or each new store prints its migrations
