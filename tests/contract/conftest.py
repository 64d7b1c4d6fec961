"""One conversation for all tests in here: it takes seconds."""

import pytest

from tests.contract.recording import Recording, record


@pytest.fixture(scope="package")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """All that a gateway said."""
    return record(tmp_path_factory.mktemp("recording"))
