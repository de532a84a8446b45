"""The only package that uses MLflow.

MLflow reads its environment when it is imported. So its defaults are set here, before any module of this package: no
telemetry is sent, and no code of a stored model is run.
"""

from pneumonia import environment

environment.protect_mlflow()
