"""How rollouts went, over time."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STAGES = ("waiting", "busy", "succeeded", "failed", "lost")


def upgrade() -> None:
    op.create_table(
        "progress",
        sa.Column("rollout_id", ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        *(sa.Column(stage, sa.BigInteger(), nullable=False) for stage in STAGES),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name="fk_progress_rollout_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rollout_id", "at", name="pk_progress"),
    )


def downgrade() -> None:
    op.drop_table("progress")
