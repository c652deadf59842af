"""Trust statements, on their way to devices."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "statements",
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_statements_tenant_id"), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_statements"),
    )


def downgrade() -> None:
    op.drop_table("statements")
