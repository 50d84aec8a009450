"""Null-text inversion (Mokady et al., CVPR 2023, arXiv 2211.09794).

Inverts under the source prompt without guidance, then learns the *unconditional* embedding that makes guided
sampling retrace the inverted trajectory: one per step (algorithm 1), or one for all steps. The source prompt's
embedding stays as it is, so that edits by its words mean what they say. Stores the trajectory and the embeddings.
Needs a guidance scale w other than 1: what it learns is weighted by 1 - w, where `prompt-tuning`'s is by w. The choice
for comparison with published results, at 7.5.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.methods.base import Inverted, Method, Task
from pipeline.methods.fitting import fitted, learned_at, reread


def _branches(tensors: Mapping[str, Tensor], source: Tensor, null: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return learned_at(tensors, null, step), source


def _find(task: Task, trajectory: Tensor) -> Inverted:
    return fitted(task, trajectory, task.null, task.source, "unconditional", _branches)


def _reread(task: Task, trajectory: Tensor, kept: Mapping[str, Tensor]) -> Inverted:
    return reread(task, trajectory, kept, _branches)


NULL_TEXT = Method(_find, _branches, reread=_reread)
