"""Commands: what somebody wants changed, before it is decided.

`by` is who asks and what it may do; `actor` is how the fact will name it; `fields` are the JSON
parameters of the call, credentials and reserved call parameters already taken out. `id` of a
create command is the one to use when the client gave none. Must not know how a command is
decided: see `event.py`, `catalog.py` and `accounts.py`.
"""

from dataclasses import dataclass, field

from domain.access import Principal
from domain.facts import Actor, CatalogType, Json

# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateEvent:
    """create_event (api.md 3.3); `fields` may hold an `id` and an `update_state`."""

    by: Principal
    actor: Actor
    id: str
    fields: Json


@dataclass(frozen=True, slots=True)
class UpdateEvent:
    """update_event (api.md 3.4); `fields` hold the `id` and the keys to replace."""

    by: Principal
    actor: Actor
    fields: Json


@dataclass(frozen=True, slots=True)
class RevertEvent:
    """revert_event (api.md 8.7): a new revision with the whole `content` of an old one."""

    by: Principal
    actor: Actor
    id: str
    content: Json


@dataclass(frozen=True, slots=True)
class DeleteEvent:
    """delete_event (api.md 3.5); `live_jobs` is the number of the event's unfinished jobs."""

    by: Principal
    actor: Actor
    id: str
    live_jobs: int
    delete_jobs: bool = False


# --- supporting records ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateRecord:
    """create_category, create_tag, ... (api.md 8.3)."""

    by: Principal
    actor: Actor
    type: CatalogType
    id: str
    fields: Json


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """update_category, update_tag, ...; `fields` hold the `id` and the keys to replace."""

    by: Principal
    actor: Actor
    type: CatalogType
    fields: Json


@dataclass(frozen=True, slots=True)
class DeleteRecord:
    """delete_category, delete_tag, ..."""

    by: Principal
    actor: Actor
    type: CatalogType
    id: str


@dataclass(frozen=True, slots=True)
class UpdateManyRecords:
    """multi_update_category, multi_update_group: `items` are `{id, sort_order, ...}`."""

    by: Principal
    actor: Actor
    type: CatalogType
    items: list[Json]


@dataclass(frozen=True, slots=True)
class UpdateServer:
    """update_server (api.md 8.4); `server` is the fleet's record of it, None if unknown."""

    by: Principal
    actor: Actor
    server: Json | None
    fields: Json


@dataclass(frozen=True, slots=True)
class DeleteServer:
    """delete_server; `server` is the fleet's record of it, None if unknown."""

    by: Principal
    actor: Actor
    id: str
    server: Json | None
    online: bool
    history: bool = False


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """The universal limits and actions, job_env, timezone, dst_policy (design.md 3.1)."""

    by: Principal
    actor: Actor
    fields: Json


@dataclass(frozen=True, slots=True)
class SwitchScheduling:
    """update_global_state: the master switch (scheduling.md 5)."""

    by: Principal
    actor: Actor
    enabled: bool


# --- accounts ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateApiKey:
    """create_api_key; `key_hash` is the keyed hash, `mask` what may be shown of the key."""

    by: Principal
    actor: Actor
    id: str
    fields: Json
    key_hash: str
    mask: str


@dataclass(frozen=True, slots=True)
class UpdateApiKey:
    """update_api_key; `fields` hold the `id` and the keys to replace."""

    by: Principal
    actor: Actor
    fields: Json


@dataclass(frozen=True, slots=True)
class DeleteApiKey:
    """delete_api_key."""

    by: Principal
    actor: Actor
    id: str


@dataclass(frozen=True, slots=True)
class CreateUser:
    """admin_create (api.md 8.1); `password_hash` is the salted slow hash, None for no login."""

    by: Principal
    actor: Actor
    fields: Json
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateUser:
    """admin_update; `fields` hold the `username`; a `password_hash` replaces the old one."""

    by: Principal
    actor: Actor
    fields: Json
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateProfile:
    """update: a user's own account. The old password was checked by whoever sends this."""

    by: Principal
    actor: Actor
    fields: Json = field(default_factory=dict)
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteUser:
    """admin_delete."""

    by: Principal
    actor: Actor
    username: str
