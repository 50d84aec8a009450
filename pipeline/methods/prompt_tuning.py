"""Prompt tuning inversion (Dong et al., ICCV 2023, arXiv 2305.04441).

Inverts under the source prompt without guidance, or without a prompt where none is given, then learns the
*conditional* embedding that makes guided sampling retrace the inverted trajectory: one per step
(algorithm 1), or one for all steps. The paper always inverts without a prompt; guidance then pulls the
learned embedding to the empty prompt, and edits start from there (infra/decisions/0005). The learned
embedding is a visual prompt: it says what the words left out. Stores the trajectory and the embeddings.
The method of choice for edits that keep everything else.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.methods.base import Inverted, Method, Task
from pipeline.methods.fitting import fitted, learned_at, reread


def _branches(tensors: Mapping[str, Tensor], source: Tensor, null: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return null, learned_at(tensors, source, step)


def _find(task: Task, trajectory: Tensor) -> Inverted:
    return fitted(task, trajectory, task.source, task.null, "conditional", _branches)


def _reread(task: Task, trajectory: Tensor, kept: Mapping[str, Tensor]) -> Inverted:
    return reread(task, trajectory, kept, _branches)


PROMPT_TUNING = Method(_find, _branches, reread=_reread)
