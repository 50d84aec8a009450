"""Direct inversion (Ju et al., *PnP Inversion*, ICLR 2024, arXiv 2310.01506).

Inverts under the source prompt without guidance, and stores by how much each guided step then misses the trajectory.
Adding it back after each step leads to the image, at any guidance, without a fit. The paper corrects the source
branch alone; here the edit takes the same correction, so that it begins at the image and leaves it as its strength
grows. Stores the trajectory and the residuals. The choice where reconstruction has to be exact and a fit costs too
much.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.methods.base import Inverted, Method, Task, prompts_alone
from pipeline.methods.correction import corrected, residual_at


def _find(task: Task, trajectory: Tensor) -> Inverted:
    return corrected(task, trajectory, eta=0.0)


DIRECT = Method(_find, prompts_alone, residual=residual_at)
