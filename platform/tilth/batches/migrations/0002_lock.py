"""Locks batches and their chunks to their tenant; the worker looks at all tenants' batches, to be fair."""

from django.db import migrations

from tilth.core.rls import TenantTable


class Migration(migrations.Migration):
    dependencies = [("batches", "0001_initial")]
    operations = [
        TenantTable("Batch", system_reads=True),
        TenantTable("Chunk", append_only=True),
    ]
