"""Other people's editors on the bundled model: they run, repeat themselves, and leave the networks as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.assembly import load_backbone
from pipeline.models.backbone import Backbone
from pipeline.models.peers import PEERS, PeerTask
from pipeline.quality.cases import held_out_cases
from pipeline.quality.tuning import untuned


@pytest.fixture(scope="module")
def model() -> Backbone:
    """The bundled model."""
    return load_backbone(None, "cpu")


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
def test_peers_edit_repeatably_and_leave_no_trace(name: str, model: Backbone) -> None:
    """Every edit comes back in order, the same in a batch of any size, and the network predicts as before.

    Each is a picture of its image's size, and nearer to it than to the other image.
    """
    peer, task = PEERS[name], _task(batch=3)
    settings = untuned(peer.knobs).settings
    z, t, embedding = torch.ones(1, 6, 16, 16), torch.tensor([500]), model.encode_prompts(["a photo of a red mug"])
    before = model.predict(z, t, embedding)
    made = peer.edit(model, task, settings)
    assert made.edit_seconds > 0
    assert [(p.shape, p.dtype) for p in made.pictures] == [((64, 64, 3), np.uint8)] * 3
    distances = [[np.abs(p.astype(int) - image).mean() for image in task.images] for p in made.pictures]
    assert [int(np.argmin(d)) for d in distances] == [0, 0, 1]
    assert all(min(d) > 0 for d in distances)
    alone = peer.edit(model, _task(batch=1), settings)
    assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(made.pictures, alone.pictures, strict=True))
    assert torch.equal(model.predict(z, t, embedding), before)
