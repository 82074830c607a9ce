"""Locks deployments to their tenant; the worker's loader looks for fresh ones."""

from django.db import migrations

from tilth.core.rls import TenantTable


class Migration(migrations.Migration):
    dependencies = [("serving", "0001_initial"), ("registry", "0003_lock")]
    operations = [TenantTable("Deployment", system_reads=True)]
