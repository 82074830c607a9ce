"""Locks the tables of usage to their tenant; events and ledger are append-only; devices are never oversold."""

from django.db import migrations

from tilth.core.rls import TenantTable
from tilth.usage.locks import BalancedPostings, ExclusiveDevices, FrozenPrices


class Migration(migrations.Migration):
    dependencies = [("usage", "0001_initial")]
    operations = [
        FrozenPrices(),
        TenantTable("UsageEvent", append_only=True),
        TenantTable("Budget"),
        TenantTable("Tally"),
        TenantTable("Hold", system_reads=True),
        TenantTable("PendingFold", system_reads=True),
        TenantTable("LedgerEntry", append_only=True),
        TenantTable("DeviceSpan", system_reads=True),
        BalancedPostings(),
        ExclusiveDevices(),
    ]
