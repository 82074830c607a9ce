"""The row of a month's budget: made when first needed; holds of the month before move on with it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet, Sum

from tilth.core.errors import PaymentRequired
from tilth.core.money import MICRO, dollars_exact
from tilth.core.scope import in_tenant
from tilth.tenants.models import ApiKey
from tilth.usage import statements
from tilth.usage.models import Budget, Hold

DEFAULT_LIMIT_MICRO_USD = 100 * MICRO


def month_of(moment: datetime) -> date:
    """The first day of a moment's month, UTC."""
    return moment.astimezone(UTC).date().replace(day=1)


@dataclass(frozen=True)
class Room:
    """A budget's figures, as far as a refusal needs them."""

    of_key: bool
    limit_micro_usd: int
    spent_micro_usd: int
    held_micro_usd: int

    @property
    def left_micro_usd(self) -> int:
        """Negative when the limit was lowered."""
        return self.limit_micro_usd - self.spent_micro_usd - self.held_micro_usd

    def refusal(self, amount_micro_usd: int) -> PaymentRequired:
        """Why a hold of that amount is refused, with the figures."""
        source = "key_cap" if self.of_key else "monthly_budget"
        return PaymentRequired(
            f"{'The cap of this key' if self.of_key else 'The budget of this month'} is "
            f"{dollars_exact(self.limit_micro_usd)}, of which {dollars_exact(max(self.left_micro_usd, 0))} are left; "
            f"this needs up to {dollars_exact(amount_micro_usd)}. Raise it, or wait for what is under way to end.",
            limit_source=source,
        )


@in_tenant
def budget_ensure(*, tenant: UUID, month: date, key: UUID | None = None, cap_micro_usd: int | None = None) -> Budget:
    """The budget of that month, of the organisation or of a key with a cap; made if it is not there.

    A key shares its budget with those that it was rotated from.
    A new one takes the limit of the one before (a key's takes the cap), and what is held there moves on with it, so
    that what starts in one month and ends in the next is covered by the next one's limit.
    """
    key = key and _first_key(tenant, key)
    others = Budget.objects.filter(key=key)
    found: Budget | None = others.filter(month=month).first()
    if found is not None:
        return found
    former = _locked(others.filter(month__lt=month).order_by("-month").first())
    limit = former.limit_micro_usd if former and cap_micro_usd is None else cap_micro_usd
    made, new = Budget.objects.get_or_create(
        month=month, key=key, defaults={"limit_micro_usd": DEFAULT_LIMIT_MICRO_USD if limit is None else limit}
    )
    if new and former and not others.filter(month__gt=month).exists():
        _move_holds(former, made)
    return made


def key_budget(*, tenant: UUID, month: date, key: UUID) -> Budget | None:
    """The budget of that month of a key with a cap; None if it has no cap."""
    cap = ApiKey.objects.filter(id=key).values_list("monthly_cap_micro_usd", flat=True).first()
    return None if cap is None else budget_ensure(tenant=tenant, month=month, key=key, cap_micro_usd=cap)


def _first_key(tenant: UUID, key: UUID) -> UUID:
    """The key itself if it was never rotated, or is erased."""
    with connection.cursor() as cursor:
        cursor.execute(statements.FIRST_KEY, {"tenant": tenant, "key": key})
        first: tuple[UUID] | None = cursor.fetchone()
    return first[0] if first else key


def _locked(budget: Budget | None) -> Budget | None:
    """Holds before their budget, as RELEASE locks them, so that neither waits for the other in a circle."""
    if budget is None:
        return None
    list(_holds(budget).order_by("id").select_for_update().values_list("id"))
    return Budget.locked(id=budget.id)


def _holds(budget: Budget) -> QuerySet[Hold]:
    return Hold.objects.filter(**{_pointer(budget): budget})


def _pointer(budget: Budget) -> str:
    return "budget" if budget.key is None else "key_budget"


def _move_holds(former: Budget, fresh: Budget) -> None:
    """The caller has locked the former budget, so no hold is placed there meanwhile.

    A hold that was placed just before that and is being given back already stays: its release waits for this to end.
    """
    holds = dict(_holds(former).select_for_update(skip_locked=True).values_list("id", "amount_micro_usd"))
    amount = sum(holds.values())
    Hold.objects.filter(id__in=holds).update(**{_pointer(former): fresh})
    Budget.objects.filter(id=fresh.id).update(held_micro_usd=amount)
    left = _holds(former).aggregate(sum=Sum("amount_micro_usd"))["sum"] or 0
    Budget.objects.filter(id=former.id).update(held_micro_usd=left)
    fresh.held_micro_usd = amount
