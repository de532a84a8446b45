"""The only package that uses MLflow.

MLflow reads its environment when it is imported. So it is set here, before any module of this package: no telemetry is
sent, no code of a stored model is run, and no run or experiment of the user's shell is used.
"""

from pneumonia import environment

environment.set_variables()
