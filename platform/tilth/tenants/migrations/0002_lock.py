"""Locks the tables of organisations to their tenant, and lets keys, members and invitations be found beforehand."""

from django.db import migrations

from tilth.core.rls import LookupPolicy, TenantTable


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [
        TenantTable("Organisation", system_reads=True),
        TenantTable("Membership"),
        TenantTable("Invitation"),
        TenantTable("ApiKey"),
        TenantTable("AuditEntry", append_only=True),
        LookupPolicy("ApiKey", name="found_by_hash", column="secret_sha256", setting="tilth.key_sha256"),
        LookupPolicy("Membership", name="found_by_user", column="user_id", setting="tilth.user", cast="uuid"),
        LookupPolicy("Invitation", name="found_by_token", column="token_sha256", setting="tilth.token_sha256"),
    ]
