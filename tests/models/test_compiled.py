"""Compiled networks: what they compute, and how often they are compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.control import Control
from pipeline.models.assembly import load_backbone
from pipeline.models.backbone import Backbone
from tests.model_folders import FOLDERS

PROMPTS = ["a photo of a red mug", "a photo of a blue mug on a lawn", "", "a photo of a jug", "a photo of a red mug"]
FAMILIES = ["sd1", "sdxl", "sd3"]
TRACED = "eager"  # graphs are made, guarded and run, and no code for them, which takes minutes
TAKEN = torch.tensor([0, 0, 2, 2, 1])


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """A small, untrained model of a family."""
    torch.compiler.reset()
    return load_backbone(str(FOLDERS[request.param](tmp_path)), "cpu")


def _outputs(
    model: Backbone, n: int, control: Control, size: tuple[int, int] = (16, 24), *, together: bool = False
) -> Tensor:
    """The network's output for n rows, each under its own prompt and at its own timestep, or all at one `together`."""
    channels = int(model.encode_images(torch.zeros(1, 3, 32, 32)).shape[1])
    z = torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(n))
    timesteps = model.schedule(5).timesteps
    timesteps = timesteps[1].expand(n) if together else timesteps[:n]
    return model.predict(z, timesteps, model.encode_prompts(PROMPTS[:n]), control)


def _gradient(model: Backbone, n: int) -> Tensor:
    """Of the output's mean square, with respect to the prompts."""
    z = torch.randn_like(_outputs(model, n, Control()))
    embedding = model.encode_prompts(PROMPTS[:n]).requires_grad_()
    loss = model.predict(z, model.schedule(5).timesteps[:n], embedding).square().mean()
    return torch.autograd.grad(loss, embedding)[0]


def test_a_compiled_network_is_the_network(model: Backbone) -> None:
    """Outputs, outputs with structure taken from other rows, and gradients, in graphs for any number of rows."""
    taken = Control(structure_of=TAKEN)
    asked: list[Callable[[int], Tensor]] = [
        torch.no_grad()(lambda n: _outputs(model, n, Control())),
        torch.no_grad()(lambda n: _outputs(model, n, Control(structure_of=TAKEN[:n]))),
        lambda n: _gradient(model, n),
    ]
    torch.manual_seed(0)
    plain = [ask(n) for ask in asked for n in (5, 3)]
    assert not torch.equal(plain[0], _outputs(model, 5, taken))
    model.compile(TRACED)
    torch.manual_seed(0)
    compiled = []
    for ask in asked:
        compiled.append(ask(5))
        with torch.compiler.set_stance("fail_on_recompile"):
            compiled.append(ask(3))
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["sd1"], indirect=True)
def test_rows_at_one_step_and_rows_at_their_own_share_a_graph(model: Backbone) -> None:
    """Inversions and edits ask for the one, fits for the other; each graph takes minutes."""
    plain = torch.no_grad()(_outputs)(model, 3, Control(), together=True)
    model.compile(TRACED)
    torch.no_grad()(_outputs)(model, 5, Control())
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = torch.no_grad()(_outputs)(model, 3, Control(), together=True)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["sd1"], indirect=True)
def test_a_single_row_and_a_third_size_run_as_they_are(model: Backbone) -> None:
    """They are not compiled for, and come out right."""
    plain = [_outputs(model, n, Control(), size) for n, size in ((1, (16, 24)), (2, (24, 16)))]
    model.compile(TRACED)
    for size in ((8, 8), (16, 24)):
        _outputs(model, 2, Control(), size)
    with torch.compiler.set_stance("fail_on_recompile"):
        again = [_outputs(model, n, Control(), size) for n, size in ((1, (16, 24)), (2, (24, 16)))]
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)
