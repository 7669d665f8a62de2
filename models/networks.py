"""The two ONNX networks of a bundle, run by ONNX Runtime on whatever device there is."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

_PREFERRED = ("CUDAExecutionProvider", "CPUExecutionProvider")


def open_network(model: bytes) -> ort.InferenceSession:
    """Load a model from its bytes: one thread and no spinning, since Flink owns the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = ort.get_available_providers()
    providers = [name for name in _PREFERRED if name in available]
    return ort.InferenceSession(model, options, providers=providers)


def encode(network: ort.InferenceSession, vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Session vectors float32 [B, D] of item vectors [B, L, D], oldest first, padded behind.

    `lengths` [B] says how many of the L are real (at least one); a network that wants more of them
    gets them padded. One session is run as two,
    because matrix libraries sum a single row in another order than several.
    """
    single = len(vectors) == 1
    if single:
        vectors, lengths = np.concatenate((vectors,) * 2), np.concatenate((lengths,) * 2)
    fixed = network.get_inputs()[0].shape[1]
    if isinstance(fixed, int) and vectors.shape[1] < fixed:
        behind = ((0, 0), (0, fixed - vectors.shape[1]), (0, 0))
        vectors = np.pad(vectors, behind, mode="edge")
    inputs = {"vectors": vectors, "lengths": lengths.astype(np.int32)}
    out = network.run(None, inputs)[0]
    return out[:1] if single else out


def score(
    network: ort.InferenceSession,
    candidates: np.ndarray,
    sessions: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """Scores float32 [M] of candidate features [M, F] in sessions [B, S]; rows [M] → session."""
    count = len(candidates)
    if count == 1:
        candidates, rows = np.concatenate((candidates,) * 2), np.concatenate((rows,) * 2)
    if len(sessions) == 1:
        sessions = np.concatenate((sessions,) * 2)
    inputs = {"candidates": candidates, "sessions": sessions, "rows": rows}
    return network.run(None, inputs)[0][:count]
