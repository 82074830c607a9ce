"""Locks uploads and their parts to their tenant."""

from django.db import migrations

from tilth.core.rls import TenantTable


class Migration(migrations.Migration):
    dependencies = [("datasets", "0003_upload")]
    operations = [
        TenantTable("Upload", system_reads=True),  # the sweep of what has expired
        TenantTable("UploadPart"),
    ]
