"""The graph, run once at toy size for all tests that read its outputs."""

import pytest

from tests.graph.closure import INSTANCES
from tests.graph.project import Project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole pipeline, run once; a test that changes something puts it back."""
    project = Project(tmp_path_factory.mktemp("toy run"))  # a path with a blank in it
    assert sorted(project.repro()) == sorted(INSTANCES)
    project.commit("results")
    return project
