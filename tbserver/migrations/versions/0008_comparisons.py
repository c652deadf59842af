"""What is new in each release against the one before it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _release(name: str) -> sa.Column[int]:
    key = sa.ForeignKey("release.id", name=f"fk_comparison_{name}", ondelete="CASCADE")
    return sa.Column(name, ID, key, nullable=False)


def upgrade() -> None:
    op.create_table(
        "comparison",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_comparison_tenant_id"), nullable=False),
        _release("release_id"),
        _release("since_id"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("begun", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_comparison"),
        sa.UniqueConstraint("release_id", name="uq_comparison_release_id"),
    )


def downgrade() -> None:
    op.drop_table("comparison")
