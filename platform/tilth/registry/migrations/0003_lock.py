"""Locks models to their tenant; the worker's loader looks up what fresh deployments point at."""

from django.db import migrations

from tilth.core.rls import TenantTable


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_initial")]
    operations = [TenantTable("Model", system_reads=True)]
