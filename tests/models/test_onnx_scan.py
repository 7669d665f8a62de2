"""ONNX bytes are looked through before a runtime sees them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.onnx_scan import check_onnx


def model_with(tensor: TensorProto, inside: str) -> bytes:
    """A model that holds a tensor as initializer, in a node's attribute or in a subgraph."""
    good = numpy_helper.from_array(np.ones(3, np.float32), "good")
    nodes = [helper.make_node("Identity", ["good"], ["out"])]
    initializers = [good]
    if inside == "initializer":
        initializers.append(tensor)
    elif inside == "attribute":
        nodes.append(helper.make_node("Constant", [], ["c"], value=tensor))
    else:
        constant = helper.make_node("Constant", [], ["c"], value=tensor)
        branch = helper.make_graph([constant], "branch", [], [])
        nodes.append(helper.make_node("If", ["good"], ["d"], then_branch=branch))
    graph = helper.make_graph(nodes, "graph", [], [], initializer=initializers)
    return helper.make_model(graph).SerializeToString()


PLACES = ["initializer", "attribute", "subgraph"]


@pytest.mark.parametrize("inside", PLACES)
def test_sound_models_pass(inside: str) -> None:
    check_onnx(model_with(numpy_helper.from_array(np.ones(4, np.float32), "x"), inside))


@pytest.mark.parametrize("inside", PLACES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_found(inside: str, value: float) -> None:
    tensor = numpy_helper.from_array(np.array([1, value], np.float32), "x")
    with pytest.raises(ValueError, match="expected finite weights"):
        check_onnx(model_with(tensor, inside))
    listed = helper.make_tensor("x", TensorProto.FLOAT, [2], [1.0, value])
    with pytest.raises(ValueError, match="expected finite weights"):
        check_onnx(model_with(listed, inside))


@pytest.mark.parametrize("inside", PLACES)
def test_external_data_is_found(inside: str) -> None:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "x")
    tensor.data_location = TensorProto.EXTERNAL
    with pytest.raises(ValueError, match="a tensor is external"):
        check_onnx(model_with(tensor, inside))


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="found no tensor"):
        check_onnx(onnx.ModelProto().SerializeToString())


@given(st.binary(max_size=200))
def test_garbage_never_does_more_than_raise_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_onnx(data)
