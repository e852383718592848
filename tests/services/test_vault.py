"""Encrypting secrets: bound to their place, readable with the right key only, and rotated."""

import stat
from pathlib import Path

import pytest

from services.errors import StartupError as ServiceError
from services.ledger.connection import Ledger
from services.ledger.errors import LedgerError, StartupError, WrongSecret
from services.ledger.founding import found
from services.ledger.vault import Unreadable, Vault, add_key, forget_other_keys


def test_a_value_comes_back_and_its_key_file_is_private(tmp_path: Path) -> None:
    vault = Vault.of(tmp_path)
    token = vault.seal("db", "PASSWORD", "hunter22", vault.keys[0])

    assert Vault.of(tmp_path).unseal("db", "PASSWORD", token) == "hunter22"
    assert "hunter22" not in token
    assert stat.S_IMODE((tmp_path / "secrets.keys").stat().st_mode) == 0o600


def test_the_same_value_looks_different_each_time(tmp_path: Path) -> None:
    vault = Vault.of(tmp_path)
    tokens = {vault.seal("db", "A", "same", vault.keys[0]) for _ in range(3)}

    assert len(tokens) == 3


def test_a_ciphertext_cannot_be_moved_to_another_secret_or_variable(tmp_path: Path) -> None:
    vault = Vault.of(tmp_path)
    token = vault.seal("db", "PASSWORD", "hunter22", vault.keys[0])

    for secret, name in (("other", "PASSWORD"), ("db", "HARMLESS")):
        with pytest.raises(Unreadable) as refusal:
            vault.unseal(secret, name, token)
        assert "hunter22" not in str(refusal.value)


def test_another_installations_key_reads_nothing(tmp_path: Path) -> None:
    mine, theirs = Vault.of(tmp_path / "a"), Vault.of(tmp_path / "b")
    token = theirs.seal("db", "A", "value", theirs.keys[0])

    with pytest.raises(Unreadable, match="is not in"):
        mine.unseal("db", "A", token)


def test_a_new_key_is_found_without_a_restart_and_old_ones_can_be_forgotten(
    tmp_path: Path,
) -> None:
    vault = Vault.of(tmp_path)
    old = vault.seal("db", "A", "value", vault.keys[0])
    fresh = add_key(vault.file)

    new = vault.seal("db", "A", "value", fresh)
    assert vault.unseal("db", "A", old) == vault.unseal("db", "A", new) == "value"
    assert forget_other_keys(vault.file, fresh) == 1
    with pytest.raises(Unreadable):
        Vault.of(tmp_path).unseal("db", "A", old)


def test_a_file_without_keys_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "secrets.keys").write_text("short\n")
    with pytest.raises((StartupError, ServiceError), match=r"secrets\.keys"):
        Vault.of(tmp_path)


async def test_a_service_with_another_keys_file_does_not_start(
    ledger: Ledger, tmp_path: Path
) -> None:
    await found(ledger, tmp_path, 1.0)
    await found(ledger, tmp_path, 2.0)
    (tmp_path / "secrets.keys").unlink()

    with pytest.raises(WrongSecret, match="copy the file from the first machine"):
        await found(ledger, tmp_path, 3.0)


def test_its_errors_belong_to_the_ledgers() -> None:
    assert issubclass(Unreadable, LedgerError)
