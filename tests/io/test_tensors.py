from __future__ import annotations

import json

import torch

from pipeline.io.tensors import pack, tensor_index, unpack


def test_tensors_come_back_with_dtype_and_shape() -> None:
    """Every dtype that methods store survives, as do scalars, empty tensors and views of a batch."""
    batch = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    tensors = {
        "float": batch[1],
        "same": batch[1],
        "half": batch[0].half(),
        "brain": batch[2].bfloat16(),
        "turned": batch[0].T,
        "whole": torch.arange(6).reshape(2, 3),
        "scalar": torch.tensor(1.5, requires_grad=True),
        "none": torch.zeros(0, 7),
        "flag": torch.tensor([True, False]),
    }
    back = unpack(pack(tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_equal_tensors_give_equal_bytes() -> None:
    """Neither the order of names nor memory layout enters the payload."""
    a, b = torch.ones(2, 3), torch.arange(4.0)
    assert pack({"a": a, "b": b}) == pack({"b": b.clone(), "a": torch.ones(3, 2).T})


def test_the_index_says_what_a_payload_holds() -> None:
    """Names, dtypes and shapes can be read without opening the payload."""
    assert json.loads(tensor_index({"z": torch.zeros(2, 3, dtype=torch.bfloat16)})) == {
        "z": {"dtype": "bfloat16", "shape": [2, 3]}
    }
