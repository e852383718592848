"""`jobledger up --cluster`: what it refuses. That it works is shown by tests/chaos."""

import json
import stat
from pathlib import Path

from services.ledger.embedded import prepare
from services.ledger.embedded_cluster import kept_size, prepare_cluster
from tests.services.test_up import free_port, refusal


def test_a_size_without_a_majority_is_refused(tmp_path: Path) -> None:
    sentence = refusal("--data-dir", str(tmp_path / "data"), "--cluster", "2")

    assert sentence == "jobledger: --cluster takes 3 or 5, and brings its own NATS."
    assert not (tmp_path / "data").exists()


def test_a_directory_of_one_node_does_not_become_a_cluster(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "nats" / "store").mkdir()
    where = ("--data-dir", str(tmp_path), "--port", str(free_port()))

    assert "was begun without --cluster" in refusal(*where, "--cluster", "3")


def test_a_cluster_goes_on_with_as_many_nodes_as_it_began_with(tmp_path: Path) -> None:
    prepare_cluster(tmp_path, 3)
    where = ("--data-dir", str(tmp_path), "--port", str(free_port()))

    assert kept_size(tmp_path) == 3
    assert "was begun with --cluster 3" in refusal(*where)
    assert "was begun with --cluster 3" in refusal(*where, "--cluster", "5")


def test_ports_and_keys_of_a_cluster_are_chosen_once_and_private(tmp_path: Path) -> None:
    first, second = prepare_cluster(tmp_path, 3), prepare_cluster(tmp_path, 3)

    assert first == second
    assert len({setup.port for setup in first}) == 3
    assert {len(setup.url.split(",")) for setup in first} == {3}
    home = tmp_path / "nats"
    for private in ("cluster.json", "node1/server.conf", "node3/server.conf"):
        assert stat.S_IMODE((home / private).stat().st_mode) == 0o600
    assert json.loads((home / "enrolment.key").read_bytes())["address"] == first[0].address
