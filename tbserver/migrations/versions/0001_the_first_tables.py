"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# SQLite numbers rows by itself only where the key is an INTEGER.
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# What was done, was done: not even this program can change it.
APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
        "CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
        "CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
    ),
}


def upgrade() -> None:
    op.create_table(
        "tenant",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("approval", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenant"),
        sa.UniqueConstraint("name", name="uq_tenant_name"),
    )
    op.create_table(
        "throttle",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_throttle"),
    )
    op.create_table(
        "account",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_account_tenant_id"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("must_change", sa.Boolean(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_account_tenant_id_name"),
    )
    op.create_table(
        "audit",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_audit_tenant_id"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_tenant_id_id", "audit", ["tenant_id", "id"])
    op.create_table(
        "device",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_device_tenant_id"), nullable=False),
        sa.Column("controller", sa.String(length=128), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=True),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tree", sa.String(length=64), nullable=False),
        sa.Column("system", sa.String(length=128), nullable=False),
        sa.Column("release", sa.String(length=128), nullable=False),
        sa.Column("health", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("wants", sa.Boolean(), nullable=False),
        sa.Column("assignment_id", ID, nullable=True),
        sa.Column("installed_id", ID, nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_device"),
        sa.UniqueConstraint("tenant_id", "controller", name="uq_device_tenant_id_controller"),
    )
    op.create_index("ix_device_tenant_id_id", "device", ["tenant_id", "id"])
    op.create_index("ix_device_tenant_id_release_id", "device", ["tenant_id", "release", "id"])
    op.create_index("ix_device_tenant_id_seen_id", "device", ["tenant_id", "seen", "id"])
    op.create_index("ix_device_tenant_id_state_id", "device", ["tenant_id", "state", "id"])
    op.create_table(
        "device_group",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_device_group_tenant_id"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_device_group"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_device_group_tenant_id_name"),
    )
    op.create_index("ix_device_group_tenant_id_id", "device_group", ["tenant_id", "id"])
    op.create_table(
        "device_token",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_device_token_tenant_id"), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("controller", sa.String(length=128), nullable=True),
        sa.Column("used", sa.String(length=64), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_device_token"),
        sa.UniqueConstraint("digest", name="uq_device_token_digest"),
    )
    op.create_index("ix_device_token_tenant_id_id", "device_token", ["tenant_id", "id"])
    op.create_table(
        "release",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_release_tenant_id"), nullable=False),
        sa.Column("tree", sa.String(length=64), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("device_types", sa.JSON(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_release"),
        sa.UniqueConstraint("tenant_id", "tree", name="uq_release_tenant_id_tree"),
    )
    op.create_index("ix_release_tenant_id_id", "release", ["tenant_id", "id"])
    op.create_table(
        "tally",
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_tally_tenant_id"), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "subject", "key", name="pk_tally"),
    )
    op.create_table(
        "trusted_key",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_trusted_key_tenant_id"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trusted_key"),
        sa.UniqueConstraint("tenant_id", "key_id", name="uq_trusted_key_tenant_id_key_id"),
    )
    op.create_table(
        "api_token",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_api_token_tenant_id"), nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=True),
        sa.Column("used", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_api_token_account_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_api_token"),
        sa.UniqueConstraint("digest", name="uq_api_token_digest"),
    )
    op.create_index("ix_api_token_tenant_id_id", "api_token", ["tenant_id", "id"])
    op.create_table(
        "artifact",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_artifact_tenant_id"), nullable=False),
        sa.Column("release_id", ID, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("sha1", sa.String(length=40), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("image", sa.String(length=64), nullable=False),
        sa.Column("base", sa.String(length=64), nullable=False),
        sa.Column("free", sa.BigInteger(), nullable=False),
        sa.Column("encoders", sa.JSON(), nullable=False),
        sa.Column("signers", sa.JSON(), nullable=False),
        sa.Column("made", sa.String(length=16), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"], name="fk_artifact_release_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_artifact"),
        sa.UniqueConstraint("tenant_id", "digest", name="uq_artifact_tenant_id_digest"),
    )
    op.create_index("ix_artifact_release_id_base", "artifact", ["release_id", "base"])
    op.create_index("ix_artifact_tenant_id_id", "artifact", ["tenant_id", "id"])
    op.create_table(
        "attribute",
        sa.Column("device_id", ID, nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_attribute_tenant_id"), nullable=False),
        sa.Column("value", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_attribute_device_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device_id", "key", name="pk_attribute"),
    )
    op.create_index(
        "ix_attribute_tenant_id_key_value_device_id", "attribute", ["tenant_id", "key", "value", "device_id"]
    )
    op.create_table(
        "login",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_login_tenant_id"), nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_login_account_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", name="pk_login"),
    )
    op.create_table(
        "member",
        sa.Column("group_id", ID, nullable=False),
        sa.Column("device_id", ID, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_member_tenant_id"), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_member_device_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["group_id"], ["device_group.id"], name="fk_member_group_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("group_id", "device_id", name="pk_member"),
    )
    op.create_index("ix_member_device_id", "member", ["device_id"])
    op.create_table(
        "report",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_report_tenant_id"), nullable=False),
        sa.Column("device_id", ID, nullable=False),
        sa.Column("assignment_id", ID, nullable=True),
        sa.Column("name", sa.String(length=64), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("execution", sa.String(length=16), nullable=False),
        sa.Column("finished", sa.String(length=16), nullable=False),
        sa.Column("code", sa.BigInteger(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_report_device_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_report"),
        sa.UniqueConstraint("assignment_id", "name", name="uq_report_assignment_id_name"),
    )
    op.create_index("ix_report_assignment_id_id", "report", ["assignment_id", "id"])
    op.create_index("ix_report_device_id_id", "report", ["device_id", "id"])
    op.create_table(
        "rollout",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_rollout_tenant_id"), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("release_id", ID, nullable=True),
        sa.Column("undoes", ID, nullable=True),
        sa.Column("filter", sa.Text(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.BigInteger(), nullable=False),
        sa.Column("reached", sa.BigInteger(), nullable=True),
        sa.Column("seed", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", ID, nullable=False),
        sa.Column("approved_by", ID, nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=True),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["approved_by"], ["account.id"], name="fk_rollout_approved_by"),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name="fk_rollout_created_by", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"], name="fk_rollout_release_id"),
        sa.ForeignKeyConstraint(["undoes"], ["rollout.id"], name="fk_rollout_undoes"),
        sa.PrimaryKeyConstraint("id", name="pk_rollout"),
    )
    op.create_index("ix_rollout_tenant_id_id", "rollout", ["tenant_id", "id"])
    op.create_index("ix_rollout_tenant_id_state_id", "rollout", ["tenant_id", "state", "id"])
    op.create_table(
        "upload",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_upload_tenant_id"), nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_upload_account_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_upload"),
    )
    op.create_index("ix_upload_tenant_id_created", "upload", ["tenant_id", "created"])
    op.create_table(
        "assignment",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenant.id", name="fk_assignment_tenant_id"), nullable=False),
        sa.Column("rollout_id", ID, nullable=False),
        sa.Column("device_id", ID, nullable=False),
        sa.Column("release_id", ID, nullable=True),
        sa.Column("command", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("from_tree", sa.String(length=64), nullable=False),
        sa.Column("asks", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("offered", sa.BigInteger(), nullable=True),
        sa.Column("reported", sa.BigInteger(), nullable=True),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_assignment_device_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"], name="fk_assignment_release_id"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name="fk_assignment_rollout_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_assignment"),
        sa.UniqueConstraint("rollout_id", "device_id", name="uq_assignment_rollout_id_device_id"),
    )
    op.create_index("ix_assignment_device_id_id", "assignment", ["device_id", "id"])
    op.create_index("ix_assignment_rollout_id_phase_state", "assignment", ["rollout_id", "phase", "state"])
    op.create_index("ix_assignment_rollout_id_state_id", "assignment", ["rollout_id", "state", "id"])
    op.create_index("ix_assignment_tenant_id_id", "assignment", ["tenant_id", "id"])
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("assignment")
    op.drop_table("upload")
    op.drop_table("rollout")
    op.drop_table("report")
    op.drop_table("member")
    op.drop_table("login")
    op.drop_table("attribute")
    op.drop_table("artifact")
    op.drop_table("api_token")
    op.drop_table("trusted_key")
    op.drop_table("tally")
    op.drop_table("release")
    op.drop_table("device_token")
    op.drop_table("device_group")
    op.drop_table("device")
    op.drop_table("audit")
    op.drop_table("account")
    op.drop_table("throttle")
    op.drop_table("tenant")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_refuse")
