"""Locks jobs, events and checkpoints to their tenant; the worker looks at all tenants' jobs, to be fair."""

from django.db import migrations

from tilth.core.rls import TenantTable


class Migration(migrations.Migration):
    dependencies = [("training", "0001_initial")]
    operations = [
        TenantTable("Job", system_reads=True),
        TenantTable("Event", append_only=True),
        TenantTable("Checkpoint", append_only=True),
    ]
