"""Settings that change a result, and so enter its key: of inversions, and of edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pipeline.records import Deltas, FadedCells, GivenMask, Interpolation, LatentCells, MaskKind, WordWeights
from pipeline.words import effective_weights

# The methods that learn embeddings; the others find latents only.
FITTED: Final = ("prompt-tuning", "null-text")
_OF_A_FIT: Final = ("embeddings", "segments", "max_iterations", "learning_rate", "tolerance", "min_gain")
_UNUSED_OF_AN_INVERSION: Final[Mapping[str, tuple[str, ...]]] = {
    "edit-friendly": ("refine_iterations", "refine_rounds"),
    "direct": ("refine_rounds",),
}
_WHY_UNUSED: Final = {
    "edit-friendly": "its latents are noised and not inverted",
    "direct": "it leads back exactly without",
}

# Shares of the way to noise at which predictions are compared for an automatic mask: where the layout is settled
# and the content is not (DiffEdit, Couairon et al., 2023, section 3.2, compares at one half).
MASK_LEVELS: Final = (0.4, 0.5, 0.6, 0.7)


# Fixed-point iterations that a round of joint refinement takes at least: guided predictions change faster along a step
# than plain ones, and without them the way up would miss more than the round gains.
JOINT_ITERATIONS: Final = 2


class Settings(BaseModel):
    """Immutable values, of which none is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what Python would take for 0 or 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"expected no boolean; got {value}")
        return value


class InversionSettings(Settings):
    """How an image is inverted. Part of the inversion key."""

    method: Literal["ddim", "prompt-tuning", "null-text", "negative-prompt", "direct", "edit-friendly"] = Field(
        "prompt-tuning", description="how latents and embeddings are found"
    )
    num_inference_steps: int = Field(50, ge=1, le=1000, description="steps from the image to noise, and back")
    guidance_scale: float = Field(1.5, ge=0, le=30, description="guidance at which embeddings are fitted")
    guidance_share: float = Field(
        0.5, ge=0, le=1, description="share of the steps, from the noise down, that are guided; null-text guides all"
    )
    refine_iterations: int = Field(0, ge=0, le=50, description="fixed-point iterations per inversion step")
    refine_rounds: int = Field(
        0,
        ge=0,
        le=10,
        description="rounds of inverting again as the method samples, and fitting again, where that helps",
    )
    embeddings: Literal["per-step", "per-segment", "shared"] = Field(
        "per-step", description="one embedding per step, per segment of steps, or for all steps"
    )
    segments: int = Field(5, ge=1, le=1000, description="how many segments the steps are divided into")
    max_iterations: int = Field(5, ge=0, le=1000, description="gradient steps per embedding, at most")
    learning_rate: float = Field(0.04, gt=0, le=1, description="Adam's learning rate, falling to zero over a fit")
    tolerance: float = Field(1e-4, ge=0, description="a row stops once its latent error is below this")
    min_gain: float = Field(
        0.05, ge=0, lt=1, description="a row stops once an iteration takes less than this share off its error; 0: never"
    )
    artifact: Literal["compact", "full"] = Field(
        "compact",
        description="what is stored: the least from which the rest is computed again, or all that edits start from",
    )

    @property
    def retraces(self) -> bool:
        """Whether an artifact leaves the latents out: they are found again as the inversion found them."""
        return self.artifact == "compact" and self.refine_rounds == 0

    def guides(self, step: int) -> bool:
        """Whether a step 1..N is guided: there the layout and the content are found.

        Guidance of the later steps only saturates colours (Kynkäänniemi et al., 2024). What null-text learns acts
        through guidance alone, so that it guides at every step.
        """
        share = 1.0 if self.method == "null-text" else self.guidance_share
        return share * self.num_inference_steps > self.num_inference_steps - step

    def scale_at(self, step: int) -> float:
        """The guidance scale at a step 1..N."""
        return self.guidance_scale if self.guides(step) else 1.0

    @model_validator(mode="after")
    def _sensible(self) -> InversionSettings:
        """Refuse combinations in which a setting could not do what it says."""
        if self.method == "null-text" and self.guidance_scale == 1:
            raise ValueError("null-text: expected a guidance scale other than 1; at 1 the learned embedding has no say")
        if self.method == "prompt-tuning" and self.guidance_scale == 0 and self.guidance_share == 1:
            raise ValueError("prompt-tuning: expected a guidance scale above 0; at 0 the learned embedding has no say")
        for name in sorted(unused_by(self.method)):
            value, default = getattr(self, name), InversionSettings.model_fields[name].default
            if value != default:
                why = "it fits nothing" if name in _OF_A_FIT else _WHY_UNUSED[self.method]
                raise ValueError(f"{self.method}: expected no {name}, as {why}; got {value}")
        steps = self.num_inference_steps
        if self.embeddings == "per-segment" and self.segments > steps:
            raise ValueError(f"segments: expected at most one per step, {steps}; got {self.segments}")
        if self.embeddings != "per-segment" and self.segments != InversionSettings.model_fields["segments"].default:
            raise ValueError(f"segments: expected embeddings per-segment; got {self.embeddings}")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that change what the method finds; goes into keys."""
        segments = () if self.embeddings == "per-segment" else ("segments",)
        share = ("guidance_share",) if self.method == "null-text" else ()  # it guides every step
        level = () if self.method in FITTED else ("artifact",)  # what is left out comes back exactly
        return self.model_dump(exclude={*unused_by(self.method), *segments, *share, *level})


def unused_by(method: str) -> frozenset[str]:
    """The inversion settings that a method has no use for."""
    unused = frozenset(_UNUSED_OF_AN_INVERSION.get(method, ()))
    return unused if method in FITTED else unused.union(_OF_A_FIT)


class Controlled(Protocol):
    """Whatever asks for an edit: a prompt, and controls of its own, of which None takes the job's."""

    @property
    def prompt(self) -> str: ...
    @property
    def deltas(self) -> Deltas: ...
    @property
    def variation(self) -> float | None: ...
    @property
    def hold_structure(self) -> float | None: ...
    @property
    def hold_self_attention(self) -> float | None: ...
    @property
    def hold_cross_attention(self) -> float | None: ...
    @property
    def word_weights(self) -> Mapping[str, float] | None: ...


@dataclass(frozen=True, slots=True)
class Controls:
    """How an edit is controlled: what it asked for, else what the job says."""

    hold_structure: float
    hold_self_attention: float
    hold_cross_attention: float
    word_weights: dict[str, float]
    variation: float


class EditSettings(Settings):
    """How an edit is made from an inversion. Part of the edit key."""

    interpolation: Interpolation = Field(
        "source-to-target",
        description="learned + s·(target − learned), or learned + s·(target − source) where a source prompt is known",
    )
    hold_structure: float = Field(
        0.8, ge=0, le=1, description="share of the steps that keep the source's shapes; 0 to replace objects"
    )
    hold_self_attention: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which a picture attends to itself as its source does"
    )
    hold_cross_attention: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which words act where the source prompt's do"
    )
    word_weights: WordWeights = Field({}, description="factors of the attention to words, in prompts that have them")
    skip: float = Field(
        0.0, ge=0, lt=1, description="share of the steps, from the noise down, that an edit leaves out, in whole steps"
    )
    variation: float = Field(
        0.0, ge=0, le=1, description="share of fresh noise in an edit's steps: another result for every seed; 0: none"
    )
    mask: MaskKind = Field(
        "auto",
        description="where edits act: by predictions, by attention to changed words, where both say so; none: all",
    )
    mask_grow: LatentCells = Field(1, description="latent cells by which a mask that is found grows")
    mask_feather: FadedCells = Field(0.0, description="latent cells over which a mask's edge fades, given ones' too")
    mask_given: GivenMask = Field(
        "replace", description="a given mask: instead of the one that would be found, or where both say so"
    )
    composite: Literal["full", "none"] = Field(
        "full",
        description="full: into the original, at its size; none: the bare edit, at the working size, without alpha",
    )

    def of(self, settings: Mapping[str, Any]) -> EditSettings:
        """These, with an edit's own in the place of some."""
        return self.model_copy(update=dict(settings)) if settings else self

    def controls(self, edit: Controlled) -> Controls:
        """The controls that an edit is made with; of the weights, those that its prompt has words for.

        Words of several changes at once have no places in common: none of theirs is held or weighted.
        """
        named = {name: getattr(edit, name) for name in Controls.__slots__}
        found = {name: getattr(self, name) if value is None else value for name, value in named.items()}
        if edit.deltas:
            return Controls(**found | {"hold_cross_attention": 0.0, "word_weights": {}})
        return Controls(**found | {"word_weights": effective_weights(found["word_weights"], edit.prompt)})
