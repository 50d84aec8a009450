"""Slots: generators of one image each, answered together, whatever each has come to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.slots import Evaluate, Land, Row, run


def _network(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
    return z * embedding.mean(dim=(1, 2)).view(-1, 1, 1, 1) + steps.view(-1, 1, 1, 1)


def _evaluating(image: int, steps: int) -> Row[float]:
    """Asks once per step and adds up what it is told."""
    total = torch.zeros(1, 2, 2)
    for step in range(steps, 0, -1):
        total = total + (yield Evaluate(torch.full((1, 2, 2), float(image)), step, torch.ones(3, 4)))
    return float(total.mean())


def _landing(goal: float, *, descends: bool) -> Row[list[float]]:
    """Descends on one step until it lands within a hundredth of its goal; returns its errors."""
    embedding, errors = torch.zeros(3, 4), list[float]()
    for _ in range(200):
        landing = yield Land(
            torch.ones(1, 2, 2), 1, embedding, torch.zeros(1, 2, 2), 1.0, torch.full((1, 2, 2), goal),
            enough=lambda error: error < 1e-4, descends=descends,
        )  # fmt: skip
        errors.append(landing.error)
        if landing.gradient is None:
            break
        embedding = embedding - 3.0 * landing.gradient
    return errors


def test_results_come_in_order_however_long_each_takes() -> None:
    """Each image gets what it would get alone, and images that wait take the slots of those that are done."""
    lengths = [5, 1, 3, 2, 4]
    sizes: list[int] = []

    def counting(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
        sizes.append(len(z))
        return _network(z, steps, embedding)

    together = run(counting, (_evaluating(i, n) for i, n in enumerate(lengths)), slots=2)
    alone = [run(_network, [_evaluating(i, n)], slots=1)[0] for i, n in enumerate(lengths)]
    assert together == alone
    assert sizes == [2] * 6 + [1] * 3  # the last image enters at the sixth call; until then no slot is empty


def test_only_as_many_images_are_begun_as_there_are_slots() -> None:
    """An image that waits has not been touched: what it is made of may be made when its turn comes."""
    begun, at_each_call = list[int](), list[int]()

    def rows() -> Iterator[Row[float]]:
        for i in range(5):
            begun.append(i)
            yield _evaluating(i, 1)

    def watching(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
        at_each_call.append(len(begun))
        return _network(z, steps, embedding)

    assert len(run(watching, rows(), slots=2)) == 5
    assert at_each_call == [2, 4, 5]


def test_each_row_descends_on_its_own_error() -> None:
    """Rows with different goals land as they would alone, and one that is there already asks for no gradient."""
    goals = [1.0, 2.0, 3.0, 1.0]
    together = run(_network, [_landing(goal, descends=True) for goal in goals], slots=3)
    for goal, errors in zip(goals, together, strict=True):
        [alone] = run(_network, [_landing(goal, descends=True)], slots=1)
        assert errors == pytest.approx(alone, rel=1e-4, abs=1e-7)
        assert errors == sorted(errors, reverse=True)
    assert len(together[0]) == 1
    assert together[1][-1] < 1e-4


def test_a_network_in_half_precision_gives_gradients_of_large_latents() -> None:
    """A mean over many values gives each a gradient that is nothing in half precision; it arrives all the same."""

    def gradient(dtype: torch.dtype) -> Tensor:
        def network(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
            return _network(z.to(dtype), steps, embedding.to(dtype))

        def row() -> Row[Tensor]:
            z, goal = torch.ones(4, 128, 128), torch.full((4, 128, 128), 1.001)
            rest = torch.zeros_like(z)
            ask = Land(z, 0, torch.ones(3, 4), rest, 0.1, 0.1 * goal, enough=lambda _: False, descends=True)
            return (yield ask).gradient

        return run(network, [row()], slots=1)[0]

    torch.testing.assert_close(gradient(torch.float16), gradient(torch.float32), rtol=1e-2, atol=0)


def test_without_descent_there_is_no_gradient() -> None:
    """A landing that is only measured has its error and nothing to follow."""
    [errors] = run(_network, [_landing(2.0, descends=False)], slots=1)
    assert errors == [pytest.approx(1.0)]
