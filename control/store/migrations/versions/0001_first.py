"""The first tables: services, routes, consumers, plugins, credentials, tokens, cluster state."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cluster_state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("config_version", sa.BigInteger(), nullable=False),
        sa.Column("revocation_seq", sa.BigInteger(), nullable=False),
        sa.Column("check_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cluster_state"),
    )
    op.create_table(
        "consumers",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("username", sa.String(), nullable=True),
        sa.Column("custom_id", sa.String(), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_consumers"),
        sa.UniqueConstraint("custom_id", name="uq_consumers_custom_id"),
        sa.UniqueConstraint("username", name="uq_consumers_username"),
    )
    op.create_table(
        "entity_tags",
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("entity_name", sa.String(), nullable=False),
        sa.Column("entity_id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("tag", "entity_name", "entity_id", name="pk_entity_tags"),
    )
    op.create_index("ix_entity_tags_entity_id", "entity_tags", ["entity_id"])

    op.create_table(
        "revocations",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_revocations"),
    )
    op.create_index("ix_revocations_key", "revocations", ["key"])
    op.create_index("ix_revocations_expires_at", "revocations", ["expires_at"])

    op.create_table(
        "services",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(), nullable=True),
        sa.Column("connect_timeout", sa.Integer(), nullable=False),
        sa.Column("write_timeout", sa.Integer(), nullable=False),
        sa.Column("read_timeout", sa.Integer(), nullable=False),
        sa.Column("client_certificate_id", sa.String(length=36), nullable=True),
        sa.Column("tls_verify", sa.Boolean(), nullable=True),
        sa.Column("tls_verify_depth", sa.Integer(), nullable=True),
        sa.Column("ca_certificates", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_services"),
        sa.UniqueConstraint("name", name="uq_services_name"),
    )
    op.create_table(
        "oauth2_credentials",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("consumer_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("client_id", sa.String(), nullable=False),
        sa.Column("client_secret", sa.LargeBinary(), nullable=False),
        sa.Column("hash_secret", sa.Boolean(), nullable=False),
        sa.Column("redirect_uris", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("client_type", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_id"],
            ["consumers.id"],
            name="fk_oauth2_credentials_consumer_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_oauth2_credentials"),
        sa.UniqueConstraint("client_id", name="uq_oauth2_credentials_client_id"),
    )
    op.create_index("ix_oauth2_credentials_consumer_id", "oauth2_credentials", ["consumer_id"])

    op.create_table(
        "routes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("protocols", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("methods", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("hosts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("paths", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("snis", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("sources", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("destinations", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("https_redirect_status_code", sa.Integer(), nullable=False),
        sa.Column("regex_priority", sa.BigInteger(), nullable=False),
        sa.Column("strip_path", sa.Boolean(), nullable=False),
        sa.Column("preserve_host", sa.Boolean(), nullable=False),
        sa.Column("request_buffering", sa.Boolean(), nullable=False),
        sa.Column("response_buffering", sa.Boolean(), nullable=False),
        sa.Column("path_handling", sa.String(), nullable=False),
        sa.Column("service_id", sa.String(length=36), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name="fk_routes_service_id", ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_routes"),
        sa.UniqueConstraint("name", name="uq_routes_name"),
    )
    op.create_index("ix_routes_service_id", "routes", ["service_id"])

    op.create_table(
        "oauth2_tokens",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("credential_id", sa.String(length=36), nullable=False),
        sa.Column("service_id", sa.String(length=36), nullable=True),
        sa.Column("token_type", sa.String(), nullable=False),
        sa.Column("access_token_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("refresh_token_digest", sa.LargeBinary(length=32), nullable=True),
        sa.Column("authenticated_userid", sa.String(), nullable=True),
        sa.Column("scope", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_in", sa.BigInteger(), nullable=False),
        sa.Column("gone_at", sa.Float(), nullable=True),
        sa.Column("by_hand", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["credential_id"],
            ["oauth2_credentials.id"],
            name="fk_oauth2_tokens_credential_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name="fk_oauth2_tokens_service_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_oauth2_tokens"),
        sa.UniqueConstraint("access_token_digest", name="uq_oauth2_tokens_access_token_digest"),
        sa.UniqueConstraint("refresh_token_digest", name="uq_oauth2_tokens_refresh_token_digest"),
    )
    op.create_index("ix_oauth2_tokens_by_hand", "oauth2_tokens", ["by_hand"])
    op.create_index("ix_oauth2_tokens_credential_id", "oauth2_tokens", ["credential_id"])
    op.create_index("ix_oauth2_tokens_gone_at", "oauth2_tokens", ["gone_at"])
    op.create_index("ix_oauth2_tokens_service_id", "oauth2_tokens", ["service_id"])

    op.create_table(
        "plugins",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("instance_name", sa.String(), nullable=True),
        sa.Column("service_id", sa.String(length=36), nullable=True),
        sa.Column("route_id", sa.String(length=36), nullable=True),
        sa.Column("consumer_id", sa.String(length=36), nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("protocols", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_id"], ["consumers.id"], name="fk_plugins_consumer_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["route_id"], ["routes.id"], name="fk_plugins_route_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name="fk_plugins_service_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_plugins"),
        sa.UniqueConstraint("instance_name", name="uq_plugins_instance_name"),
    )
    op.create_index("ix_plugins_consumer_id", "plugins", ["consumer_id"])
    op.create_index("ix_plugins_route_id", "plugins", ["route_id"])
    op.create_index("ix_plugins_service_id", "plugins", ["service_id"])

    op.create_index(
        "uq_plugins_scope",
        "plugins",
        [
            "name",
            sa.text("coalesce(route_id, '')"),
            sa.text("coalesce(service_id, '')"),
            sa.text("coalesce(consumer_id, '')"),
        ],
        unique=True,
    )


def downgrade() -> None:
    op.drop_table("plugins")
    op.drop_table("oauth2_tokens")
    op.drop_table("routes")
    op.drop_table("oauth2_credentials")
    op.drop_table("services")
    op.drop_table("revocations")
    op.drop_table("entity_tags")
    op.drop_table("consumers")
    op.drop_table("cluster_state")
