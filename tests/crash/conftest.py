"""Where disks are made whose power is cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import in_memory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: what matters here is what was written, and in which order."""
    with in_memory() as place:
        yield place
