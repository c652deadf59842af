"""How many devices want which delta, counted now and then."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "wanted",
        sa.Column(
            "release_id",
            ID,
            sa.ForeignKey("release.id", name="fk_wanted_release_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("base", sa.String(length=64), nullable=False),
        sa.Column("devices", sa.BigInteger(), nullable=False),
        sa.Column("waiting", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("release_id", "base", name="pk_wanted"),
    )


def downgrade() -> None:
    op.drop_table("wanted")
