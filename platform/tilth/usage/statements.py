"""The statements that move money, one text each, run alike by Django's cursor and the gateway's pipelines.

All parameters are named; each runs in a transaction whose scope is the tenant's. Sets of rows come as arrays.
"""

# Budgets are raised and holds written by one statement, or neither: no row comes back when there is no room.
HOLD = """WITH room AS (
    UPDATE usage_budget SET held_micro_usd = held_micro_usd + %(total)s
    WHERE tenant_id = %(tenant)s AND month = %(month)s AND key IS NULL
      AND spent_micro_usd + held_micro_usd + %(total)s <= limit_micro_usd
    RETURNING id)
INSERT INTO usage_hold (id, tenant_id, created_at, budget_id, purpose, amount_micro_usd, expires_at)
SELECT asked.id, %(tenant)s, %(at)s, room.id, %(purpose)s, asked.amount, %(expires_at)s
FROM room, unnest(%(ids)s::uuid[], %(amounts)s::bigint[]) AS asked (id, amount)
RETURNING id"""

# Rotated keys share one cap: it is kept in the budget of the first of them.
FIRST_KEY = """WITH RECURSIVE chain AS (
    SELECT id, replaces_id FROM tenants_apikey WHERE tenant_id = %(tenant)s AND id = %(key)s::uuid
    UNION ALL
    SELECT former.id, former.replaces_id FROM chain
    JOIN tenants_apikey former ON former.tenant_id = %(tenant)s AND former.id = chain.replaces_id)
SELECT id FROM chain WHERE replaces_id IS NULL"""

# The same where the key has a cap of its own: both budgets have room, or nothing happens.
HOLD_CAPPED = f"""WITH room AS (
    SELECT whole.id AS whole, part.id AS part
    FROM usage_budget whole JOIN usage_budget part ON part.tenant_id = whole.tenant_id AND part.month = whole.month
    WHERE whole.tenant_id = %(tenant)s AND whole.month = %(month)s AND whole.key IS NULL AND part.key = ({FIRST_KEY})
      AND whole.spent_micro_usd + whole.held_micro_usd + %(total)s <= whole.limit_micro_usd
      AND part.spent_micro_usd + part.held_micro_usd + %(total)s <= part.limit_micro_usd
    FOR UPDATE OF whole, part),
raised AS (
    UPDATE usage_budget SET held_micro_usd = held_micro_usd + %(total)s
    FROM room WHERE usage_budget.id IN (room.whole, room.part))
INSERT INTO usage_hold (id, tenant_id, created_at, budget_id, key_budget_id, purpose, amount_micro_usd, expires_at)
SELECT asked.id, %(tenant)s, %(at)s, room.whole, room.part, %(purpose)s, asked.amount, %(expires_at)s
FROM room, unnest(%(ids)s::uuid[], %(amounts)s::bigint[]) AS asked (id, amount)
RETURNING id"""  # noqa: S608 - made of constants

# After PostgreSQL lost what it had not written yet: holds that were granted stand again, room or not.
HOLD_AGAIN = f"""WITH budgets AS (
    SELECT whole.id AS whole, part.id AS part FROM usage_budget whole
    LEFT JOIN usage_budget part
        ON part.tenant_id = whole.tenant_id AND part.month = whole.month AND part.key = ({FIRST_KEY})
    WHERE whole.tenant_id = %(tenant)s AND whole.month = %(month)s AND whole.key IS NULL),
again AS (
    INSERT INTO usage_hold (id, tenant_id, created_at, budget_id, key_budget_id, purpose, amount_micro_usd, expires_at)
    SELECT asked.id, %(tenant)s, %(at)s, budgets.whole, budgets.part, %(purpose)s, asked.amount, %(expires_at)s
    FROM budgets, unnest(%(ids)s::uuid[], %(amounts)s::bigint[]) AS asked (id, amount)
    ON CONFLICT (id) DO NOTHING RETURNING amount_micro_usd)
UPDATE usage_budget SET held_micro_usd = held_micro_usd + (SELECT coalesce(sum(amount_micro_usd), 0) FROM again)
FROM budgets WHERE usage_budget.id IN (budgets.whole, budgets.part)"""  # noqa: S608 - made of constants

# A hold's row goes, and only then its amount; a hold that is gone already gives nothing back twice. While this waits
# for a hold, it may be moved to a budget made after this statement's snapshot: an UPDATE does not see that one, ON
# CONFLICT does. Nothing is ever inserted, since a hold's budget is there.
RELEASE = """WITH gone AS (
    DELETE FROM usage_hold WHERE id = ANY(ARRAY(
        SELECT id FROM usage_hold WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s::uuid[]) ORDER BY id FOR UPDATE))
    RETURNING budget_id, key_budget_id, amount_micro_usd),
back AS (
    SELECT budget, sum(amount) AS amount FROM (
        SELECT budget_id AS budget, amount_micro_usd AS amount FROM gone
        UNION ALL SELECT key_budget_id, amount_micro_usd FROM gone WHERE key_budget_id IS NOT NULL) AS each
    GROUP BY budget)
INSERT INTO usage_budget (id, tenant_id, created_at, month, limit_micro_usd, held_micro_usd, spent_micro_usd)
SELECT budget, %(tenant)s, now(), '-infinity', 0, amount, 0 FROM back ORDER BY budget
ON CONFLICT (id) DO UPDATE SET held_micro_usd = usage_budget.held_micro_usd - excluded.held_micro_usd"""

# The unique key of the same insert is what dedupes. An event that was stored before only gives its hold back.
SETTLE = """WITH told AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(event_ids)s::text[], %(prices)s::uuid[], %(quantities)s::bigint[],
        %(subjects)s::text[], %(keys)s::uuid[], %(times)s::timestamptz[], %(data)s::jsonb[], %(holds)s::uuid[])
    AS told (id, event_id, price, quantity, subject, key, occurred_at, data, hold)),
stored AS (
    INSERT INTO usage_usageevent
        (id, tenant_id, created_at, source, event_id, price_id, quantity, subject, key, occurred_at, data)
    SELECT id, %(tenant)s, %(at)s, %(source)s, event_id, price, quantity, subject, key, occurred_at, data FROM told
    ON CONFLICT (tenant_id, source, event_id) DO NOTHING RETURNING id)
INSERT INTO usage_pendingfold (id, tenant_id, created_at, event, hold)
SELECT told.id, %(tenant)s, %(at)s, stored.id, told.hold FROM told LEFT JOIN stored ON stored.id = told.id
WHERE stored.id IS NOT NULL OR told.hold IS NOT NULL
ON CONFLICT (id) DO NOTHING"""

# Takes what is pending, summed by month, price and key; rows that another fold has are left to it.
TAKE = """WITH taken AS (
    DELETE FROM usage_pendingfold WHERE id = ANY(ARRAY(
        SELECT id FROM usage_pendingfold WHERE tenant_id = %(tenant)s ORDER BY id LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED))
    RETURNING event, hold)
SELECT date_trunc('month', event.occurred_at AT TIME ZONE 'UTC')::date, event.price_id, event.key,
    coalesce(sum(event.quantity), 0)::bigint, array_remove(array_agg(taken.hold), NULL), count(*),
    max(event.occurred_at)
FROM taken LEFT JOIN usage_usageevent event ON event.tenant_id = %(tenant)s AND event.id = taken.event
GROUP BY 1, 2, 3"""

TALLY = """INSERT INTO usage_tally (id, tenant_id, created_at, budget_id, price_id, quantity)
VALUES (%(id)s, %(tenant)s, %(at)s, %(budget)s, %(price)s, %(quantity)s)
ON CONFLICT (tenant_id, budget_id, price_id) DO UPDATE SET quantity = usage_tally.quantity + excluded.quantity
RETURNING quantity"""
