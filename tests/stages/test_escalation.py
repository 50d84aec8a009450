"""Reconstructions that fall short are inverted again, by the next presets, each row on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.errors import RowError
from pipeline.inversion import Inversion
from pipeline.records import PromptRow
from pipeline.settings import InversionSettings
from pipeline.stages.escalation import escalation_identity, inverted_until_near
from tests.small_job import table
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

VAE_PSNR = 32.0
FAST = JobConfig(preset="fast", qa_margin=1.0)
_CHEAP, _MIDDLE, _BEST = FAST.inversion, *FAST.escalations.values()


@dataclass
class Inverting:
    """An inversion whose reconstructions, in dB, are known by row and by number of attempts so far."""

    psnrs: dict[str, list[float | Exception]]
    calls: list[tuple[list[str], InversionSettings]] = field(default_factory=list)

    def __call__(self, rows: Sequence[str], settings: InversionSettings) -> list[Inversion | Exception]:
        self.calls.append((list(rows), settings))
        return [self._inversion(self.psnrs[row].pop(0), settings) for row in rows]

    def _inversion(self, psnr: float | Exception, settings: InversionSettings) -> Inversion | Exception:
        if isinstance(psnr, Exception):
            return psnr
        return Inversion({}, "", settings, (8, 8), VAE_PSNR, psnr, iterations=0, seconds=1.0)


def _found(psnrs: dict[str, list[float | Exception]], config: JobConfig = FAST) -> tuple[Inverting, list[Any]]:
    inverting = Inverting(psnrs)
    return inverting, inverted_until_near(inverting, list(psnrs), config)


def test_only_rows_that_fall_short_are_tried_again() -> None:
    """Each further preset sees the rows that none before it brought within the margin, in one smaller batch."""
    inverting, found = _found({"near": [31.0], "middle": [30.0, 31.5], "far": [20.0, 25.0, 31.9]})
    assert inverting.calls == [(["near", "middle", "far"], _CHEAP), (["middle", "far"], _MIDDLE), (["far"], _BEST)]
    assert [(i.recon_psnr, i.escalated, i.settings, i.seconds) for i in found] == [
        (31.0, None, _CHEAP, 1.0),
        (31.5, "balanced", _MIDDLE, 2.0),
        (31.9, "best", _BEST, 3.0),
    ]


def test_the_best_attempt_is_kept() -> None:
    """Where none is near enough, the highest PSNR stays, under the name of the preset that reached it."""
    _, found = _found({"own": [30.0, 29.0, 28.0], "middle": [20.0, 30.0, 29.0], "nan": [float("nan"), 30.0, 31.5]})
    assert [(i.recon_psnr, i.escalated) for i in found] == [(30.0, "fast"), (30.0, "balanced"), (31.5, "best")]


def test_an_attempt_that_fails_leaves_what_was_there() -> None:
    """A failure under a further preset costs no image; one under the job's own settings is not escalated."""
    error = RowError("out_of_memory", "no room")
    inverting, found = _found({"later": [20.0, error, 31.5], "never": [20.0, error, error], "bad": [error]})
    assert (found[0].recon_psnr, found[0].escalated) == (31.5, "best")
    assert (found[1].recon_psnr, found[1].escalated) == (20.0, "fast")
    assert found[2] is error
    assert "bad" not in inverting.calls[1][0]


def test_what_a_job_says_itself_stays() -> None:
    """Guidance, method and steps that are given hold under every preset; one that then says nothing new is left out."""
    given = JobConfig.model_validate({"preset": "fast", "inversion": {"guidance_scale": 7.5, "num_inference_steps": 9}})
    assert list(given.escalations) == ["balanced"]  # of `best` only the steps are different
    assert {(s.guidance_scale, s.num_inference_steps) for s in given.escalations.values()} == {(7.5, 9)}
    plain = JobConfig.model_validate({"inversion": {"method": "ddim"}})
    drawn = JobConfig.model_validate({"inversion": {"method": "edit-friendly", "num_inference_steps": 9}})
    best, never = JobConfig(preset="best"), JobConfig(escalate=False)
    assert plain.escalations == drawn.escalations == best.escalations == never.escalations == {}


def test_what_a_preset_has_no_use_for_is_left_out() -> None:
    """A job may say how embeddings are fitted, though an escalation of its images fits none."""
    given = JobConfig.model_validate({"inversion": {"max_iterations": 2, "guidance_scale": 2}})
    [(name, settings)] = given.escalations.items()
    assert (name, settings.method, settings.guidance_scale) == ("best", "edit-friendly", 2)


def test_a_preset_that_a_job_s_settings_rule_out_is_left_out() -> None:
    """Without guidance there is nothing to fit: such a job goes from its own method to the next that can."""
    unguided = {"guidance_scale": 0, "guidance_share": 1}
    assert list(JobConfig.model_validate({"preset": "fast", "inversion": unguided}).escalations) == ["best"]


def test_keys_hold_the_margin_only_where_it_changes_something() -> None:
    """A job that cannot escalate makes the same inversions at any margin."""
    assert escalation_identity(JobConfig(escalate=False)) is escalation_identity(JobConfig(preset="best")) is None
    one, other = (escalation_identity(JobConfig(qa_margin=margin)) for margin in (1.0, 2.0))
    assert one != other
    assert one == escalation_identity(JobConfig())


def test_a_job_tells_what_it_escalated(output: Path, photograph: Any) -> None:
    """The counts say how many images, the artifact says to which preset, and what is still short is flagged."""

    class Short(StandInEditor):
        def invert_rows(self, images: Any, prompts: Any, settings: Any) -> list[Inversion | RowError]:
            found = super().invert_rows(images, prompts, settings)
            shades = [int(image[0, 0, 0]) for image in images]
            better = {_CHEAP: 31.0, _MIDDLE: 32.5, _BEST: 35.0}[settings]
            for shade, inversion in zip(shades, found, strict=True):
                object.__setattr__(inversion, "recon_psnr", 39.5 if shade == 100 else better)
            return found

    editor = Short()
    asked = [photograph("near", 100), photograph("short", 50)]
    job = Job(output, editor, [PromptRow(edit_id="blue", prompt="a blue photo")], preset="fast")
    assert job.run(asked) == Counts(inverted=2, escalated=1, edited=2)
    assert editor.batches == [2, 1, 1, 2]
    artifacts = {row["image_id"]: (row["escalated"], row["recon_psnr"]) for row in table(output, "inversions")}
    assert artifacts == {"near": (None, 39.5), "short": ("best", 35.0)}
    assert {row["image_id"]: row["qa_flags"] for row in table(output, "edits")} == {
        "near": [],
        "short": ["reconstruction_short"],
    }
    assert job.run(asked) == Counts(reused=2, kept=2)
