"""Certificates, their server names, and CA certificates."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("cert", sa.String(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("cert_alt", sa.String(), nullable=True),
        sa.Column("key_alt", sa.LargeBinary(), nullable=True),
        sa.Column("snis", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_certificates"),
    )
    op.create_table(
        "ca_certificates",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("cert", sa.String(), nullable=False),
        sa.Column("cert_digest", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ca_certificates"),
        sa.UniqueConstraint("cert_digest", name="uq_ca_certificates_cert_digest"),
    )
    op.create_table(
        "snis",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("certificate_id", sa.String(length=36), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["certificate_id"],
            ["certificates.id"],
            name="fk_snis_certificate_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_snis"),
        sa.UniqueConstraint("name", name="uq_snis_name"),
    )
    op.create_index("ix_snis_certificate_id", "snis", ["certificate_id"])


def downgrade() -> None:
    op.drop_table("snis")
    op.drop_table("ca_certificates")
    op.drop_table("certificates")
