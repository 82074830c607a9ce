"""A deployment may ask that each row is computed alone."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("serving", "0002_lock")]
    operations = [
        migrations.AddField("deployment", "deterministic", models.BooleanField(default=False, db_default=False)),
    ]
