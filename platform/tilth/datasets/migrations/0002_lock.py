"""Locks files, versions and checks to their tenant; a frozen version can be neither changed nor removed."""

from django.db import migrations

from tilth.core.rls import TenantTable


class Migration(migrations.Migration):
    dependencies = [("datasets", "0001_initial"), ("tenants", "0002_lock")]
    operations = [
        TenantTable("File", system_reads=True),  # the sweep of what has expired
        TenantTable("DatasetVersion", append_only=True),
        TenantTable("Check"),
    ]
