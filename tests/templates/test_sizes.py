"""What the roles make of a host's RAM."""

from pathlib import Path

import pytest

from tests.templates.conftest import GOOD, HERE, play

#: MB of RAM → processes, and mails at once in each.
WORKERS = {480: (1, 3), 960: (2, 5), 1900: (3, 5), 3900: (5, 10)}
#: MB of RAM, whether workers run beside Redis → Redis' memory in MB.
BROKERS = {(450, False): 96, (450, True): 48, (3900, False): 1536, (3900, True): 1024, (64000, False): 7168}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sizes")
    variables = {name: value for name, value in GOOD.items() if name != "worker_ram_mb"}
    sizes = {"worker_sizes": [*WORKERS], "broker_sizes": [*map(list, BROKERS)]}
    done = play(HERE / "sizes.yml", {**variables, **sizes, "render_to": str(directory)}, directory)
    assert done.returncode == 0, done.stdout
    return directory


@pytest.mark.parametrize("ram_mb", WORKERS)
def test_workers(ram_mb: int, rendered: Path) -> None:
    processes, concurrency = WORKERS[ram_mb]
    programs = (rendered / f"{ram_mb}-programs.conf").read_text(encoding="utf-8")
    assert f"numprocs={processes}\n" in programs
    assert programs.count(f'WORKER_CONCURRENCY="{concurrency}"\n') == 1


@pytest.mark.parametrize("size", BROKERS)
def test_redis(size: tuple[int, bool], rendered: Path) -> None:
    ram_mb, shared = size
    lines = (rendered / f"{ram_mb}-{shared}-live.conf").read_text(encoding="utf-8").splitlines()
    assert f"maxmemory {BROKERS[size]}mb" in lines
