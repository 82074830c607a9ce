"""Locks first replies to their tenant."""

from django.db import migrations

from tilth.core.rls import TenantTable


class Migration(migrations.Migration):
    dependencies = [("core", "0002_firstreply")]
    operations = [TenantTable("FirstReply")]
