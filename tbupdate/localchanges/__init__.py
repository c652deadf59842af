"""Local changes: what of a root differs from its deployment, and how that is carried to another root."""
