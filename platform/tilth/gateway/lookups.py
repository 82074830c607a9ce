"""What a prediction needs to know: which model answers under a name, and the price of a token. Seconds old at most."""

from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tilth.catalog.selectors import base_model_list
from tilth.contract.digest import base_digest
from tilth.contract.messages import ServedBy
from tilth.core.errors import NotFound, Unavailable
from tilth.core.money import Price
from tilth.gateway.database import TENANT, Row, together
from tilth.gateway.fresh import Fresh

MODEL_S = 2.0
PRICE_S = 30.0

MODEL = """SELECT model.digest, model.path, model.vertical, model.base_model, model.served_by,
      deployment.deterministic
    FROM serving_deployment deployment
    JOIN registry_model model ON model.tenant_id = deployment.tenant_id AND model.id = deployment.model_id
    WHERE deployment.tenant_id = %s AND deployment.name = %s AND deployment.deleted_at IS NULL
      AND model.deleted_at IS NULL"""
PRICE = """SELECT id, micro_usd, per_quantity FROM usage_price
    WHERE unit = %s AND effective_from <= now() ORDER BY effective_from DESC LIMIT 1"""


@dataclass(frozen=True)
class Target:
    """What must answer."""

    digest: str
    path: str
    """Folder below TILTH_ARTIFACTS, ends with a slash; empty for a base model alone."""
    vertical: str
    base_model: str
    served_by: str = ServedBy.STACKED
    deterministic: bool = False


@dataclass(frozen=True)
class ListPrice:
    """A price with the id that events carry."""

    id: UUID
    rate: Price


class Lookups:
    """Reads through the pool."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Row]]) -> None:
        self._pool = pool
        self._models: Fresh[tuple[UUID, str], Target] = Fresh(self._find_model, MODEL_S)
        self._prices: Fresh[str, ListPrice] = Fresh(self._find_price, PRICE_S)

    async def model(self, tenant: UUID, name: str) -> Target:
        """What answers under a name; raises NotFound, in the same words for another tenant's and for nobody's."""
        return await self._models.get((tenant, name))

    async def encoder(self, tenant: UUID, name: str) -> Target:
        """The base model on offer of that name, alone; else what answers under the name. Raises NotFound."""
        offer = next((offer for offer in base_model_list() if offer.id == name), None)
        if offer is None:
            return await self.model(tenant, name)
        return Target(base_digest(offer.id, offer.revision), path="", vertical="", base_model=offer.id)

    async def price(self, unit: str) -> ListPrice:
        """The current price; raises Unavailable if the operator has set none."""
        return await self._prices.get(unit)

    async def _find_model(self, asked: tuple[UUID, str]) -> Target:
        tenant, name = asked
        async with self._pool.connection() as connection:
            _, rows = await together(connection, [(TENANT, [str(tenant)]), (MODEL, [tenant, name])])
        if not rows:
            raise NotFound(f"No such model: {name}", param="model", code="model_not_found")
        return Target(*rows[0])

    async def _find_price(self, unit: str) -> ListPrice:
        async with self._pool.connection() as connection:
            (rows,) = await together(connection, [(PRICE, [unit])])
        if not rows:
            raise Unavailable(f"No price is set for {unit!r}; the operator runs `manage.py sync_prices`.")
        price, micro_usd, per_quantity = rows[0]
        return ListPrice(price, Price(micro_usd, per_quantity))
