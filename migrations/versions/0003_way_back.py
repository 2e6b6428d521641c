"""the way back to a version, and what keeps one from being loaded; one trial at a time

Revision 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("model_versions") as batch:
        batch.add_column(sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("trouble", sa.Text(), nullable=True))
    # Until now the way back was the active version's parent; it was left after its child was made.
    op.execute(
        "UPDATE model_versions SET retired_at = (SELECT created_at FROM model_versions"
        " WHERE status = 'active') WHERE status = 'retired' AND id = (SELECT parent_id"
        " FROM model_versions WHERE status = 'active')"
    )
    # Of several trials a worker has served only the first.
    op.execute(
        "UPDATE model_versions SET share = 0 WHERE share > 0 AND id <> (SELECT MIN(id)"
        " FROM model_versions WHERE share > 0)"
    )


def downgrade() -> None:
    with op.batch_alter_table("model_versions") as batch:
        batch.drop_column("trouble")
        batch.drop_column("retired_at")
