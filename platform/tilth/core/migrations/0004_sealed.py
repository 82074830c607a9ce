"""A kept reply is sealed with its tenant's key."""

from django.db import migrations

import tilth.core.sealed


class Migration(migrations.Migration):
    dependencies = [("core", "0003_lock")]
    operations = [
        migrations.AlterField(model_name="firstreply", name="body", field=tilth.core.sealed.SealedJSON()),
    ]
