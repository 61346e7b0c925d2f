import pytest

from judge_server import KEY


@pytest.fixture(scope="session")
def key() -> str:
    return KEY
