"""Runs before every table is made: default privileges of the app's role."""

from django.db import migrations

from tilth.core.rls import Privileges


class Migration(migrations.Migration):
    initial = True
    run_before = [
        ("contenttypes", "0001_initial"),
        ("sessions", "0001_initial"),
        ("procrastinate", "0001_initial"),
        ("accounts", "0001_initial"),
        ("tenants", "0001_initial"),
    ]
    operations = [Privileges()]
