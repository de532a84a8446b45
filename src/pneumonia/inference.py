"""ONNX networks, opened the same way wherever one is needed: on the processor, and from one file only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pneumonia import UserError, reason


def open_session(path: Path, content: bytes, *, threads: int, remedy: str) -> Any:
    """A session of ONNX Runtime with the network in a file.

    Args:
        path: of the file, for messages.
        content: of the file.
        threads: for one image; 0 = one for each core.
        remedy: what helps if the file cannot be opened.

    Raises:
        UserError: the content is no network that can be run here, or has weights in another file.
    """
    import onnxruntime  # 0.1 s, which a reader of this module alone does not need

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too
    options.intra_op_num_threads = threads
    # Weights in another file would not be part of the digest: in a folder that does not exist there are none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", f"{path}/none")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own error classes, which it does not export
        raise UserError(f"{path} cannot be opened ({reason(error)}); {remedy}") from error
