"""Devices that are new while a rollout goes on join it: up to which one they were looked at."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollout", sa.Column("enlisted", sa.BigInteger(), nullable=False, server_default="0"))
    # Of what goes on already, as it was meant when it began.
    op.execute("UPDATE rollout SET enlisted = (SELECT coalesce(max(id), 0) FROM device)")
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("rollout", "enlisted", server_default=None)


def downgrade() -> None:
    op.drop_column("rollout", "enlisted")
