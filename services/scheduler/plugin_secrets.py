"""The secrets of plugins that run beside the scheduler: action and scheduler plugins."""

from domain.secrets import assigned
from projections.definitions import Definitions
from services.ledger.vault import Vault


class PluginSecrets:
    """Looks up what is assigned to a plugin, when it is about to run."""

    def __init__(self, definitions: Definitions, vault: Vault) -> None:
        self._definitions = definitions
        self._vault = vault

    def of(self, plugin: str) -> dict[str, str]:
        """Variables and their values in the clear; raises Unreadable without the key."""
        records = self._definitions.records("secret")
        variables: dict[str, str] = {}
        for record in assigned(records, event="", category=None, plugin=plugin):
            variables |= self._vault.values(record)
        return variables
