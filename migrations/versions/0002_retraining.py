"""retraining: its table, the versions' folders, shares and parents, the readers' consent

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("users") as batch:
        batch.add_column(sa.Column("consent", sa.Boolean(), nullable=True))

    with op.batch_alter_table("model_versions") as batch:
        batch.add_column(sa.Column("folder", sa.String(length=500), nullable=True))
        batch.add_column(sa.Column("share", sa.Double(), nullable=True))
        batch.add_column(sa.Column("parent_id", KEY, nullable=True))
    # Until now every version that had served was active: the last one stays so.
    op.execute(
        "UPDATE model_versions SET status = 'retired' WHERE status = 'active' AND id <> (SELECT id"
        " FROM model_versions WHERE status = 'active' ORDER BY served_at DESC, id LIMIT 1)"
    )
    op.execute("UPDATE model_versions SET share = 0")
    with op.batch_alter_table("model_versions") as batch:
        batch.alter_column("share", existing_type=sa.Double(), nullable=False)
        batch.alter_column("served_at", existing_type=sa.DateTime(timezone=True), nullable=True)
        batch.create_check_constraint(op.f("ck_model_versions_share"), "share >= 0 AND share <= 1")
        batch.create_foreign_key(
            op.f("fk_model_versions_parent_id"), "model_versions", ["parent_id"], ["id"]
        )
        batch.create_index(
            op.f("ix_model_versions_status"),
            ["status"],
            unique=True,
            sqlite_where=sa.text("status = 'active'"),
            postgresql_where=sa.text("status = 'active'"),
        )

    op.create_table(
        "retrainings",
        sa.Column("id", KEY, nullable=False),
        sa.Column("requested_by", sa.BigInteger(), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=True),
        sa.Column("language", sa.String(length=8), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "done",
                "failed",
                "cancelled",
                name="retrainingstatus",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("phase", sa.String(length=32), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("version_id", KEY, nullable=True),
        sa.Column("worker", sa.String(length=100), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_retrainings_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retrainings")),
    )


def downgrade() -> None:
    op.drop_table("retrainings")
    op.execute("UPDATE model_versions SET served_at = created_at WHERE served_at IS NULL")
    with op.batch_alter_table("model_versions") as batch:
        batch.drop_index(op.f("ix_model_versions_status"))
        batch.drop_constraint(op.f("fk_model_versions_parent_id"), type_="foreignkey")
        batch.drop_constraint(op.f("ck_model_versions_share"), type_="check")
        batch.alter_column("served_at", existing_type=sa.DateTime(timezone=True), nullable=False)
        batch.drop_column("parent_id")
        batch.drop_column("share")
        batch.drop_column("folder")
    with op.batch_alter_table("users") as batch:
        batch.drop_column("consent")
