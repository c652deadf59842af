"""Deltas that the server makes by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "making",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_making_tenant_id"), nullable=False),
        sa.Column(
            "release_id",
            ID,
            sa.ForeignKey("release.id", name="fk_making_release_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("base", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("begun", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_making"),
        sa.UniqueConstraint("release_id", "base", name="uq_making_release_id_base"),
    )
    op.create_index("ix_making_tenant_id_id", "making", ["tenant_id", "id"])


def downgrade() -> None:
    op.drop_table("making")
