"""The quality benchmark from end to end, on a small model: figures, resuming, skipping, and the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from pipeline.errors import JobError
from pipeline.models.assembly import load_backbone
from pipeline.models.backbone import Backbone
from pipeline.models.peers import PEERS, Peer
from pipeline.quality.cases import KINDS
from pipeline.quality.quality_bench import Extent, QualityBench
from pipeline.quality.report import as_markdown, write_report
from pipeline.quality.running import Chunk
from pipeline.quality.systems import System, own_systems, system_key
from tests.small_model import save_small_model

NAMES = ("unedited", "fast", "img2img", "ledits++")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The small model."""
    folder = save_small_model(tmp_path_factory.mktemp("model") / "small")
    return load_backbone(str(folder), "cpu")


def test_a_benchmark_measures_resumes_and_reports(
    model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures have their documented shape; the same run again makes nothing; and its report is written."""
    said: list[str] = []
    bench = QualityBench(model, tmp_path / "parts", Extent(1, 0), NAMES, say=said.append)
    report = bench.measure()
    values = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert (values["scenes"], values["edits"], values["model"]) == (1, len(KINDS), model.fingerprint)
    # This model's attention is nowhere at the size that LEDITS++ looks for: it cannot run, and that is said.
    assert values["systems"].keys() == {"unedited", "fast", "img2img"}
    assert values["skipped"].keys() == {"ledits++"}
    assert values["peers"]["img2img"]["candidates"] == []
    for kinds in values["systems"].values():
        assert kinds.keys() == {*KINDS, "all"}
        asked = {"success", "nearer", "inside_psnr", "outside_psnr", "recon_psnr", "seconds", "monotonicity"}
        assert asked <= kinds["all"].keys()
    assert values["systems"]["unedited"]["all"]["success"] == 0
    assert values["systems"]["fast"]["colour"]["monotonicity"] is not None
    assert len([line for line in said if "skipped" not in line]) == 3

    said.clear()
    ran = Chunk.run
    monkeypatch.setattr(
        Chunk, "run", lambda self, system: pytest.fail("ran again") if isinstance(system, System) else ran(self, system)
    )
    again = QualityBench(model, tmp_path / "parts", Extent(1, 0), NAMES, say=said.append)
    assert again.measure().systems == report.systems
    assert all("skipped" in line for line in said)

    assert write_report(again, report, tmp_path) == []
    assert {"table.md", "scatter.png", "contact-sheet-best.png", "contact-sheet-worst.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert "| two | fast |" in (tmp_path / "table.md").read_text()


def test_peers_are_tuned_on_scenes_of_their_own(
    model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every candidate is tried on tuning scenes; the best runs on the benchmark's, and the report lists them all."""
    knobs = {"strength": (0.1, 0.2), "guidance_scale": (1.0,)}
    monkeypatch.setitem(cast("dict[str, Peer]", PEERS), "img2img", replace(PEERS["img2img"], knobs=knobs))
    said: list[str] = []
    report = QualityBench(model, tmp_path, Extent(1, 1), ["img2img"], say=said.append).measure()
    assert report.skipped == {}
    tuned = report.peers["img2img"]
    assert [c.settings["strength"] for c in tuned.candidates] == [0.1, 0.2]
    assert tuned.settings == max(tuned.candidates, key=lambda c: c.worth).settings
    assert [line.split(",")[0] for line in said] == ["img2img: tuning"] * 2 + ["img2img: part 1 of 1"]
    assert as_markdown(report).count("strength 0.2, guidance_scale 1.0") >= 1


def test_keys_are_settings_and_not_names() -> None:
    """Two names for the same settings share their results; any other setting is another key."""
    systems = own_systems()
    keys = {name: system_key(system) for name, system in systems.items()}
    for name, system in systems.items():
        assert {other for other in keys if keys[other] == keys[name]} == {
            other for other in systems if systems[other] == system
        }


def test_damaged_parts_are_made_again(model: Backbone, tmp_path: Path) -> None:
    """A file that ends too early is as good as none."""
    runs: list[str] = []
    for _ in range(2):
        QualityBench(model, tmp_path, Extent(1, 0), ["unedited"], say=runs.append).measure()
        (part,) = tmp_path.iterdir()
        part.write_bytes(part.read_bytes()[:-40])
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("extent", "names", "message"),
    [
        (Extent(1, 0), ["nobody"], "systems: expected some of unedited, .*; got nobody"),
        (Extent(10_001, 0), [], "scenes: expected 1 to 10000; got 10001"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    model: Backbone, tmp_path: Path, extent: Extent, names: list[str], message: str
) -> None:
    """Unknown systems, and scenes that are there to tune on, are refused in one line."""
    with pytest.raises(JobError, match=message):
        QualityBench(model, tmp_path, extent, names)
