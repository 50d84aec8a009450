"""Other people's editors on the bundled model: they run, repeat themselves, and leave the networks as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.peers import PEERS, PeerTask
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.quality.cases import held_out_cases
from pipeline.quality.tuning import untuned


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    """The bundled model."""
    return StableDiffusion.from_pretrained(None, "cpu", None)


def _task(batch: int) -> PeerTask:
    first, *_, second = held_out_cases([0], 64)
    return PeerTask(
        [first.image, second.truth],
        [first.source_prompt, second.prompt],
        [[first.prompt, first.source_prompt], [second.source_prompt]],
        batch,
        num_inference_steps=4,
    )


@pytest.mark.parametrize("name", PEERS)
def test_peers_edit(name: str, model: StableDiffusion) -> None:
    """Every edit of every image comes back in order, as a picture of the image's size that is not the image."""
    peer, task = PEERS[name], _task(batch=2)
    made = peer.edit(model, task, untuned(peer.knobs).settings)
    assert [p.shape for p in made.pictures] == [(64, 64, 3)] * 3
    assert all(p.dtype == np.uint8 and p.std() > 10 for p in made.pictures)
    owners = [0, 0, 1]
    distances = [[np.abs(p.astype(int) - image).mean() for image in task.images] for p in made.pictures]
    assert [int(np.argmin(d)) for d in distances] == owners
    assert all(d[owner] > 0 for d, owner in zip(distances, owners, strict=True))
    assert made.edit_seconds > 0


@pytest.mark.parametrize("name", PEERS)
def test_peers_repeat_themselves_and_leave_no_trace(name: str, model: StableDiffusion) -> None:
    """A batch of another size gives the same pictures but for rounding, and the network predicts as before."""
    peer = PEERS[name]
    settings = untuned(peer.knobs).settings
    z, t, embedding = torch.ones(1, 6, 16, 16), torch.tensor([500]), model.encode_prompts(["a photo of a red mug"])
    before = model.predict(z, t, embedding)
    made = [peer.edit(model, _task(batch), settings).pictures for batch in (1, 3)]
    assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(*made, strict=True))
    assert torch.equal(model.predict(z, t, embedding), before)
