"""What the server logs: a JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import time


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "from": record.name,
            "message": record.getMessage(),
        }
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=True)


def begin(level: int = logging.INFO) -> None:
    """Log from now on; text that came from outside cannot break out of its line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It says each step of a migration.
    logging.getLogger("alembic").setLevel(logging.WARNING)
