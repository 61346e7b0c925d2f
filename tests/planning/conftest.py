import pytest

from benchmarks.models import save_empty


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Directories with the configuration and a processor of the true shapes, and no weights."""
    directories = {name: tmp_path_factory.mktemp(name) for name in ("3b", "7b", "mimo")}
    for name, directory in directories.items():
        save_empty(name, directory)
    return directories
