"""Looks into the bytes of an ONNX file without the onnx package, before a runtime opens it.

Only the few fields of onnx.proto that lead to tensors are followed: model → graph → node →
attribute → tensor, so that every tensor is seen, in subgraphs and functions as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PATHS = {  # message: {field number: message inside it}, from onnx.proto
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
}
_FLOAT, _FLOAT_DATA, _RAW_DATA, _EXTERNAL, _LOCATION = 1, 4, 9, 13, 14
_MAX_DEPTH = 20


def check_onnx(model: bytes) -> None:
    """Raise ValueError if a tensor lies outside the file or holds a number that is not finite."""
    seen = 0
    for tensor in _tensors(memoryview(model), "Model", 0):
        _check_tensor(tensor)
        seen += 1
    if seen == 0:
        raise ValueError("expected an ONNX model with weights; found no tensor in it")


def _check_tensor(tensor: memoryview) -> None:
    kind, floats = 0, []
    for field, value in _fields(tensor):
        if field == _EXTERNAL or (field == _LOCATION and value == 1):
            raise ValueError("expected all weights inside the ONNX file; a tensor is external")
        if field == 2 and isinstance(value, int):
            kind = value
        elif field in (_FLOAT_DATA, _RAW_DATA) and isinstance(value, memoryview):
            floats.append(value)
    if kind == _FLOAT:
        for part in floats:
            if len(part) % 4 or not np.isfinite(np.frombuffer(part, "<f4")).all():
                raise ValueError("expected finite weights; a tensor holds NaN or infinity")


def _tensors(data: memoryview, message: str, depth: int) -> Iterator[memoryview]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"expected an ONNX model nested at most {_MAX_DEPTH} deep")
    for field, value in _fields(data):
        inner = _PATHS[message].get(field)
        if inner is None or not isinstance(value, memoryview):
            continue
        if inner == "Tensor":
            yield value
        else:
            yield from _tensors(value, inner, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a protobuf message: numbers as int, the rest as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            number, at = _varint(data, at)
            yield field, number
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"expected an ONNX file; got protobuf wire type {wire}")
        if at + size > len(data):
            raise ValueError("expected a whole ONNX file; a field runs over its end")
        yield field, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("expected an ONNX file; a number in it does not end")
