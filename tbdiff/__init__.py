"""tbdiff: signed images that turn one root tree into another, exactly."""

__version__ = "1.0.0"
