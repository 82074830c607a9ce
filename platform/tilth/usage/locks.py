"""What the database itself enforces about money: frozen prices, postings that sum to zero, devices never oversold."""

from typing import Any

from tilth.core.rls import Sql, app_role, system_role

# The scope is closed before a deferred trigger runs, so it opens that of the row just written; no row seen is a fault.
BALANCES = """CREATE FUNCTION usage_posting_balances() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE former text := coalesce(current_setting('tilth.tenant', true), ''); total numeric;
BEGIN
    PERFORM set_config('tilth.tenant', NEW.tenant_id::text, true);
    SELECT sum(amount_micro_usd) INTO total FROM usage_ledgerentry
        WHERE tenant_id = NEW.tenant_id AND posting = NEW.posting;
    PERFORM set_config('tilth.tenant', former, true);
    IF total IS DISTINCT FROM 0 THEN
        RAISE EXCEPTION 'posting % sums to %, not to zero', NEW.posting, total USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$"""
TRIGGER = """CREATE CONSTRAINT TRIGGER posting_balances AFTER INSERT ON usage_ledgerentry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION usage_posting_balances()"""

# A range of text needs no extension, where equality in a GiST index would need btree_gist.
DEVICES = 'CREATE TYPE usage_devices AS RANGE (subtype = text, collation = "C")'
EXCLUSIVE = """ALTER TABLE usage_devicespan ADD CONSTRAINT device_is_never_oversold EXCLUDE USING gist (
    usage_devices(device, device, '[]') WITH &&,
    int4range(share_from, share_to) WITH &&,
    tstzrange(opened_at, ends_at) WITH &&)"""


class FrozenPrices(Sql):
    """The price list only grows; both roles may read it."""

    def describe(self) -> str:
        """For ``migrate``'s output."""
        return "Freeze prices"

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """The app may add a price, never change one."""
        return [
            f'REVOKE UPDATE, DELETE, TRUNCATE ON usage_price FROM "{app_role()}"',
            f'GRANT SELECT ON usage_price TO "{system_role()}"',
        ]

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """Thaws them."""
        return [
            f'GRANT UPDATE, DELETE ON usage_price TO "{app_role()}"',
            f'REVOKE SELECT ON usage_price FROM "{system_role()}"',  # noqa: S608
        ]


class BalancedPostings(Sql):
    """A deferred constraint trigger: each posting sums to zero when its transaction commits."""

    def describe(self) -> str:
        """For ``migrate``'s output."""
        return "Balance postings"

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """Function, then trigger."""
        return [BALANCES, TRIGGER]

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """The reverse."""
        return ["DROP TRIGGER posting_balances ON usage_ledgerentry", "DROP FUNCTION usage_posting_balances()"]


class ExclusiveDevices(Sql):
    """An exclusion constraint over device, share and time, across all tenants."""

    def describe(self) -> str:
        """For ``migrate``'s output."""
        return "Never oversell a device"

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """The range type, then the constraint."""
        return [DEVICES, EXCLUSIVE]

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """The reverse."""
        return ["ALTER TABLE usage_devicespan DROP CONSTRAINT device_is_never_oversold", "DROP TYPE usage_devices"]
