"""Records of evidence: whole, dated, of known sources, and readable again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import evidence


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(evidence.DIRECTORY_VARIABLE, str(tmp_path / "evidence"))
    return tmp_path / "evidence"


def test_a_record_is_read_as_it_was_written(folder: Path) -> None:
    figures: dict[str, evidence.Figure] = {
        "images": 12,
        "longest_seconds": 0.5,
        "seed": "4711",
        "sizes": [1, 2],
        "by_kind": {"torn": 3},
    }
    evidence.record("crash_images", "make hunt", figures)
    (found,) = evidence.read_records(folder).values()
    assert (found.name, found.command) == ("crash_images", "make hunt")
    assert found.figures == figures
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.recorded_at)
    assert found.commit == "unknown" or re.fullmatch(r"[0-9a-f]{40}", found.commit)
    assert found.sources == evidence.sources_digest()
    assert "Python 3." in found.platform


def test_a_new_run_replaces_the_last_one_and_leaves_nothing_beside(
    folder: Path,
) -> None:
    evidence.record("kills", "make torture", {"kills": 1})
    evidence.record("kills", "make torture", {"kills": 2})
    assert [path.name for path in folder.iterdir()] == ["kills.json"]
    assert evidence.read_records(folder)["kills"].figures == {"kills": 2}


def test_what_is_no_json_leaves_the_old_record_alone(folder: Path) -> None:
    evidence.record("kills", "make torture", {"kills": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        evidence.record("kills", "make torture", {"kills": float("nan")})
    assert evidence.read_records(folder)["kills"].figures == {"kills": 1}


@pytest.mark.parametrize("name", ["", "Kills", "../kills", "kills.json", "1st"])
def test_a_name_is_a_file_name_everywhere(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of evidence"):
        evidence.record(name, "make torture", {})
    assert not folder.exists()


def test_a_foreign_file_among_records_is_named(folder: Path) -> None:
    evidence.record("kills", "make torture", {})
    (folder / "other.json").write_text(json.dumps({"name": "other"}))
    with pytest.raises(ValueError, match=r"other\.json is no record"):
        evidence.read_records(folder)
    (folder / "other.json").write_text((folder / "kills.json").read_text())
    with pytest.raises(ValueError, match="its name is 'kills'"):
        evidence.read_records(folder)


def test_the_digest_tells_any_change_of_the_product_s_sources(tmp_path: Path) -> None:
    for package in evidence.PRODUCT:
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    digests = {evidence.sources_digest(tmp_path)}
    (tmp_path / "common" / "a.py").write_text("x = 2\n")
    digests.add(evidence.sources_digest(tmp_path))
    (tmp_path / "common" / "a.py").rename(tmp_path / "common" / "b.py")
    digests.add(evidence.sources_digest(tmp_path))
    (tmp_path / "docs.py").write_text("")
    assert len(digests) == 3
    assert evidence.sources_digest(tmp_path) in digests
