"""`make docs`: the documentation as a site, whose links all lead somewhere, and which needs no other site."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_is_made_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--nitpicky"]
    places = ["--conf-dir", "manual/site", "--doctree-dir", tmp_path / "doctrees", ".", tmp_path / "site"]
    done = subprocess.run([*command, *places], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site/README.html").read_text()
    pages = {path.relative_to(REPOSITORY).with_suffix(".html") for path in REPOSITORY.glob("docs/**/*.md")}
    for page in pages:
        text = (tmp_path / "site" / page).read_text()
        assert not re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(?:https?:)?//', text), page
        assert page.parent.name == "adr" or f'href="{page}"' in front, f"{page} is in no menu"
