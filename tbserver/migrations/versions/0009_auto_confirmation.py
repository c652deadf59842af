"""Devices at which nobody is asked."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    device = sa.ForeignKey("device.id", name="fk_auto_confirm_device_id", ondelete="CASCADE")
    op.create_table(
        "auto_confirm",
        sa.Column("device_id", ID, device, nullable=False),
        sa.Column("initiator", sa.String(length=64), nullable=False),
        sa.Column("remark", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_auto_confirm"),
    )


def downgrade() -> None:
    op.drop_table("auto_confirm")
