"""Settings: what changes a result (and so enters its key), and how a job is run (and does not)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.records import WordWeights
from pipeline.words import effective_weights

# The methods that learn embeddings; the others find latents only.
FITTED: Final = ("prompt-tuning", "null-text")

# Shares of the way to noise at which predictions are compared for an automatic mask: where the layout is settled
# and the content is not (DiffEdit, Couairon et al., 2023, section 3.2, compares at one half).
MASK_LEVELS: Final = (0.4, 0.5, 0.6, 0.7)


# Fixed-point iterations that a round of joint refinement takes at least: guided predictions change faster along a step
# than plain ones, and without them the way up would miss more than the round gains.
JOINT_ITERATIONS: Final = 2


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InversionSettings(_Settings):
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
    learning_rate: float = Field(0.03, gt=0, le=1, description="Adam's learning rate, falling to zero over a fit")
    tolerance: float = Field(1e-4, ge=0, description="a row stops once its latent error is below this")
    min_gain: float = Field(
        0.05, ge=0, lt=1, description="a row stops once an iteration takes less than this share off its error; 0: never"
    )

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
        if self.method not in FITTED and self.embeddings != "per-step":
            raise ValueError(f"{self.method}: expected embeddings per-step, as it learns none; got {self.embeddings}")
        steps = self.num_inference_steps
        if self.embeddings == "per-segment" and self.segments > steps:
            raise ValueError(f"segments: expected at most one per step, {steps}; got {self.segments}")
        if self.method == "edit-friendly" and (self.refine_iterations or self.refine_rounds):
            raise ValueError("edit-friendly: expected no refinement, as its latents are noised and not inverted")
        return self


class Controlled(Protocol):
    """Whatever asks for an edit: a prompt, and controls of its own, of which None takes the job's."""

    @property
    def prompt(self) -> str: ...
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


class EditSettings(_Settings):
    """How an edit is made from an inversion. Part of the edit key."""

    interpolation: Literal["towards-target", "source-to-target"] = Field(
        "source-to-target",
        description="learned + s·(target − learned), or learned + s·(target − source) where a source prompt is known",
    )
    hold_structure: float = Field(
        0.5, ge=0, le=1, description="share of the steps that keep the source's shapes; 0 to replace objects"
    )
    hold_self_attention: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which a picture attends to itself as its source does"
    )
    hold_cross_attention: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which words act where the source prompt's do"
    )
    word_weights: WordWeights = Field({}, description="factors of the attention to words, in prompts that have them")
    skip: float = Field(0.0, ge=0, lt=1, description="share of the steps, from the noise down, that an edit leaves out")
    mask: Literal["auto", "attention", "both", "none"] = Field(
        "auto",
        description="where edits act: by predictions, by attention to changed words, where both say so; none: all",
    )
    mask_grow: int = Field(1, ge=0, le=64, description="latent cells by which a mask that is found grows")
    mask_feather: float = Field(0.0, ge=0, le=64, description="latent cells over which its edge then fades")
    mask_given: Literal["replace", "intersect"] = Field(
        "replace", description="a given mask: instead of the one that would be found, or where both say so"
    )
    composite: Literal["full", "none"] = Field(
        "full",
        description="full: into the original, at its size; none: the bare edit, at the working size, without alpha",
    )

    def controls(self, edit: Controlled) -> Controls:
        """The controls that an edit is made with; of the weights, those that its prompt has words for."""
        named = {name: getattr(edit, name) for name in Controls.__slots__}
        found = {name: getattr(self, name) if value is None else value for name, value in named.items()}
        return Controls(**found | {"word_weights": effective_weights(found["word_weights"], edit.prompt)})


class Preset(_Settings):
    """How images are inverted and edits are made, by one name."""

    inversion: InversionSettings
    edit: EditSettings


PresetName = Literal["fast", "balanced", "best"]
# Chosen by `relatent bench quality`, cheapest first; `balanced` is what the settings' own defaults say.
PRESETS: Final[Mapping[PresetName, Preset]] = {
    "fast": Preset(inversion=InversionSettings(method="negative-prompt", num_inference_steps=20), edit=EditSettings()),
    "balanced": Preset(inversion=InversionSettings(), edit=EditSettings()),
    "best": Preset(inversion=InversionSettings(num_inference_steps=100, refine_iterations=1), edit=EditSettings()),
}


class JobConfig(_Settings):
    """Every option of a run; a YAML file of these names is what `--config` takes."""

    images: str | None = Field(None, description="image manifest, directory or glob")
    prompts: str | None = Field(None, description="prompt manifest")
    inversions: str | None = Field(None, description="an earlier output whose artifacts `edit` works from")
    output: str | None = Field(None, description="where results go: a directory or s3://bucket/prefix")
    model: str | None = Field(None, description="diffusers folder, s3:// folder or hub id; none: the bundled model")
    preset: PresetName = Field("balanced", description="settings by one name; every other setting wins over it")
    inversion: InversionSettings = InversionSettings()
    edit: EditSettings = EditSettings()
    max_side: int = Field(
        0, ge=0, description="side of the square, in pixels, whose area the model works at; 0: the model's own"
    )
    qa_margin: float = Field(
        1.0, ge=0, description="dB that a reconstruction may fall short of the autoencoder's before edits are flagged"
    )
    max_pixels: int = Field(100_000_000, ge=1, description="images that declare more pixels are refused")
    skip_invalid: bool = Field(False, description="run without the refused manifest rows, recording them as failures")
    batch_size: int = Field(16, ge=1, le=4096, description="images that an actor takes through the network together")
    actors: int = Field(1, ge=1, description="engine actors")
    num_gpus: float | None = Field(None, ge=0, description="GPUs per actor; none: 1 where the cluster has them, else 0")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="the network's precision; none: bfloat16 on a GPU, else float32"
    )
    address: str | None = Field(None, description="Ray cluster to join; none: a local one")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        """Fill in what the preset says about settings that are not given."""
        if not isinstance(values, Mapping) or values.get("preset") not in PRESETS:
            return values
        filled = dict(values)
        for group, chosen in PRESETS[values["preset"]].model_dump(exclude_unset=True).items():
            given = values.get(group, {})
            if isinstance(given, Mapping):
                filled[group] = chosen | dict(given)
        return filled
