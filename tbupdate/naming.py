"""How a device and its tenant may be called: what can stand between two slashes of an address as it is."""

from __future__ import annotations

from typing import Annotated

import pydantic

ControllerId = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
