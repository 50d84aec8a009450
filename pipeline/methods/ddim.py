"""DDIM inversion (Song et al., 2021, *Denoising Diffusion Implicit Models*, section 4.3).

Inverts under the source prompt without guidance, where it reconstructs; guidance above 1 afterwards
departs from the image, the more the higher. Stores the trajectory. Use it for the cheapest inversion,
or as the base line that the others correct.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.diffusion.solver import denoise
from pipeline.methods.base import Inverted, Method, Task, prompts_alone, without_fit


def _find(task: Task, trajectory: Tensor) -> Inverted:
    def predict(z: Tensor, step: int) -> Tensor:
        return task.predict_guided(z, step, task.null, task.source)

    reached = denoise(predict, trajectory[-1], task.schedule)
    return without_fit({"trajectory": trajectory.transpose(0, 1)}, reached)


DDIM = Method(_find, prompts_alone)
